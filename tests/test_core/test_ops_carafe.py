"""CARAFE against a loop and its numeric gradient; mmcv has no CPU kernel."""

import numpy as np
import pytest
import torch
from mmcv.ops import CARAFEPack
from mmcv.ops.carafe import carafe, carafe_naive
from torch import Tensor

from mmpapers.ops import carafe as op

pytestmark = pytest.mark.core


def inputs(kernel: int = 3, groups: int = 2, scale: int = 2, size: tuple[int, int] = (3, 4)) -> list[Tensor]:
    height, width = size
    return [torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True),
            torch.rand(2, kernel ** 2 * groups, height * scale, width * scale, dtype=torch.float64,
                       requires_grad=True)]


@pytest.mark.parametrize('kernel, groups, scale', [(3, 2, 2), (5, 1, 1), (1, 4, 3)])
@pytest.mark.parametrize('function', [carafe, carafe_naive])
def test_loop_reference(function: type, kernel: int, groups: int, scale: int) -> None:
    x, masks = (t.detach() for t in inputs(kernel, groups, scale))
    out = function(x, masks, kernel, groups, scale)
    expected = torch.zeros(2, 4, 3 * scale, 4 * scale, dtype=torch.float64)
    for c, h, w, i, j in np.ndindex(4, 3 * scale, 4 * scale, kernel, kernel):
        y, z = h // scale + i - kernel // 2, w // scale + j - kernel // 2
        if 0 <= y < 3 and 0 <= z < 4:
            channel = c // (4 // groups) * kernel ** 2 + i * kernel + j
            expected[:, c, h, w] += x[:, c, y, z] * masks[:, channel, h, w]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('kernel, groups, scale', [(3, 2, 2), (5, 1, 1)])
def test_gradcheck(kernel: int, groups: int, scale: int) -> None:
    assert torch.autograd.gradcheck(lambda *t: carafe(*t, kernel, groups, scale), inputs(kernel, groups, scale),
                                    fast_mode=True)


def test_naive_gradient_is_the_same() -> None:
    x, masks = (t.detach() for t in inputs())
    grad = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    naive, buffered = ([torch.zeros_like(x), torch.zeros_like(masks)] for _ in range(2))
    op.carafe_naive_backward(grad, x, masks, *naive, 3, 2, 2)
    op.carafe_backward(grad, x, masks, grad, grad, x, masks, *buffered, 3, 2, 2)
    assert all(map(torch.equal, naive, buffered)) and all(g.any() for g in naive)


def test_row_chunks_give_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = inputs(size=(7, 4))

    def run() -> list[Tensor]:
        out = carafe(*leaves, 3, 2, 2)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr(op, '_CHUNK', 600)  # two rows at a time
    for part, reference in zip(run(), whole):
        torch.testing.assert_close(part, reference)


def test_masks_that_sum_to_one_keep_a_constant() -> None:
    x = torch.ones(1, 4, 5, 5)
    out = carafe(x, torch.rand(1, 9, 10, 10).softmax(1), 3, 1, 2)
    torch.testing.assert_close(out[:, :, 2:-2, 2:-2], torch.ones(1, 4, 6, 6))  # zeros enter at the border


def test_layer_of_mmcv_trains() -> None:
    layer = CARAFEPack(channels=8, scale_factor=2, compressed_channels=4)
    x = torch.randn(2, 8, 1, 3, requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    assert out.shape == (2, 8, 2, 6)
    assert x.grad.any() and all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, masks = (t.detach().to(dtype) for t in inputs())
    out = carafe(x, masks, 3, 2, 2)
    assert out.dtype == dtype
    torch.testing.assert_close(out, carafe(x.float(), masks.float(), 3, 2, 2).to(dtype))


def test_empty_batch() -> None:
    x, masks = (t.detach()[:0].requires_grad_() for t in inputs())
    out = carafe(x, masks, 3, 2, 2)
    out.sum().backward()
    assert out.shape == (0, 4, 6, 8) and x.grad.shape == x.shape


def test_errors_name_the_shapes() -> None:
    x, masks = (t.detach() for t in inputs())
    with pytest.raises(ValueError, match=r'carafe_forward: .*masks must be \(2, 18, 6, 8\).*\(2, 17, 6, 8\)'):
        op.carafe_naive_forward(x, masks[:, :17], torch.zeros(2, 4, 6, 8), 3, 2, 2)
    with pytest.raises(ValueError, match='kernel_size=4 must be odd'):
        op.carafe_naive_forward(x, masks, torch.zeros(2, 4, 6, 8), 4, 2, 2)
