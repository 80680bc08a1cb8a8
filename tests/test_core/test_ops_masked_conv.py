"""Masked convolution against the plain one; mmcv has no CPU kernel."""

import pytest
import torch
from mmcv.ops import MaskedConv2d
from torch import Tensor

from mmpapers.ops import masked_conv as op

pytestmark = pytest.mark.core


def im2col(image: Tensor, rows: list[int], columns: list[int], kernel: tuple[int, int], pad: tuple[int, int]) -> Tensor:
    col = image.new_full((image.shape[1] * kernel[0] * kernel[1], len(rows)), float('nan'))
    op.masked_im2col_forward(image, torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long), col,
                             *kernel, *pad)
    return col


@pytest.mark.parametrize('kernel, padding', [(3, 1), (1, 0), ((3, 5), (1, 2))])
@pytest.mark.parametrize('keep', [0.0, 0.5, 1.0])
def test_layer_equals_the_masked_plain_convolution(kernel: int, padding: int, keep: float) -> None:
    layer = MaskedConv2d(3, 5, kernel, padding=padding).double().requires_grad_(False)
    x, mask = torch.randn(1, 3, 6, 7, dtype=torch.float64), torch.rand(1, 6, 7) < keep
    torch.testing.assert_close(layer(x, mask), layer(x) * mask)


def test_windows_by_hand() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    col = im2col(image, [0, 2, 1], [0, 3, 1], (3, 3), (1, 1))
    assert col[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 4, 5]
    assert col[:, 1].tolist() == [6, 7, 0, 10, 11, 0, 0, 0, 0]
    assert col[:, 2].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_windows_that_end_beyond_the_map_without_padding() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert im2col(image, [1], [2], (2, 2), (0, 0))[:, 0].tolist() == [5, 0, 0, 0]
    assert im2col(image, [0], [0], (1, 1), (2, 2))[:, 0].tolist() == [0]


def test_empty_selection_and_one_pixel() -> None:
    assert im2col(torch.ones(1, 2, 4, 4), [], [], (3, 3), (1, 1)).shape == (18, 0)
    assert im2col(torch.ones(1, 2, 1, 1), [0], [0], (3, 3), (1, 1)).sum() == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_col2im_writes_the_chosen_pixels_only(dtype: torch.dtype) -> None:
    image, col = torch.full((1, 2, 3, 3), 7, dtype=dtype), torch.tensor([[1, 2], [3, 4]], dtype=dtype)
    op.masked_col2im_forward(col, torch.tensor([0, 2]), torch.tensor([1, 2]), image, 3, 3, 2)
    expected = torch.full((1, 2, 3, 3), 7, dtype=dtype)
    expected[0, :, 0, 1], expected[0, :, 2, 2] = col[:, 0], col[:, 1]
    assert torch.equal(image, expected)


def test_errors_name_the_shapes() -> None:
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'masked_im2col_forward: .*\(18, 2\), but they are .* \(9, 2\)'):
        op.masked_im2col_forward(torch.zeros(1, 2, 3, 3), index, index, torch.zeros(9, 2), 3, 3, 1, 1)
    with pytest.raises(ValueError, match=r'masked_col2im_forward: col must be \(2, 2\)'):
        op.masked_col2im_forward(torch.zeros(3, 2), index, index, torch.zeros(1, 2, 3, 3), 3, 3, 2)
