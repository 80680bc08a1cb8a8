"""PSA mask against mmcv's compiled kernel, recorded, and a loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops import PSAMask
from mmcv.ops.psa_mask import psa_mask
from torch import Tensor

from mmpapers.ops import psa_mask as op

pytestmark = pytest.mark.core
DATA = np.load(Path(__file__).parents[1] / 'data/parity/ops_conv.npz')
MASKS = {'small_mask': (3, 5), 'large_mask': (7, 5), 'even_mask': (4, 2)}


@pytest.mark.parametrize('case', MASKS)
@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_recorded_values_and_gradients(kind: str, case: str) -> None:
    key = f'psamask_{kind}/{case}'
    x = torch.from_numpy(DATA[f'{key}/in/x']).requires_grad_()
    out = psa_mask(x, int(kind == 'distribute'), MASKS[case])
    out.backward(torch.from_numpy(DATA[f'{key}/grad']))
    assert np.array_equal(out.detach(), DATA[f'{key}/out'])
    assert np.array_equal(x.grad, DATA[f'{key}/grad/x'])


def loop(x: Tensor, distribute: bool, mask: tuple[int, int]) -> Tensor:
    num, _, height, width = x.shape
    out = x.new_zeros(num, height * width, height, width)
    for h, w, i, j in np.ndindex(height, width, *mask):
        y, z = i + h - (mask[0] - 1) // 2, j + w - (mask[1] - 1) // 2
        if 0 <= y < height and 0 <= z < width:
            if distribute:
                out[:, h * width + w, y, z] = x[:, i * mask[1] + j, h, w]
            else:
                out[:, y * width + z, h, w] = x[:, i * mask[1] + j, h, w]
    return out


@pytest.mark.parametrize('size', [(1, 1), (3, 4), (4, 2)])
@pytest.mark.parametrize('mask', [(1, 1), (3, 3), (7, 9), (2, 4), (1, 9)])
@pytest.mark.parametrize('distribute', [False, True])
def test_loop_reference(size: tuple[int, int], mask: tuple[int, int], distribute: bool) -> None:
    x = torch.randn(2, mask[0] * mask[1], *size, dtype=torch.float64, requires_grad=True)
    out, expected = psa_mask(x, int(distribute), mask), loop(x, distribute, mask)
    assert torch.equal(out, expected)
    grad = torch.randn_like(out)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (out, expected)))


def test_two_kinds_are_each_others_transpose() -> None:
    x = torch.randn(2, 25, 4, 3)
    collect, distribute = (PSAMask(kind, (5, 5))(x).view(2, 12, 12) for kind in ('collect', 'distribute'))
    assert torch.equal(collect, distribute.transpose(1, 2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x = torch.randn(1, 9, 3, 3).to(dtype)
    assert torch.equal(psa_mask(x, 0, (3, 3)), loop(x, False, (3, 3)))


def test_empty_batch() -> None:
    assert psa_mask(torch.zeros(0, 9, 3, 4), 1, (3, 3)).shape == (0, 12, 3, 4)


def test_error_names_the_shapes() -> None:
    x = torch.zeros(1, 9, 3, 3)
    with pytest.raises(ValueError, match=r'psamask_forward: .*its spread \(1, 9, 3, 3\).*\(1, 8, 3, 3\); mask_size'):
        op.psamask_forward(x, torch.zeros(1, 8, 3, 3), 0, 1, 3, 3, 3, 3, 1, 1)
