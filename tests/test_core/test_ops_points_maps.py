"""Border align and correlation, which mmcv has for CUDA only, against loops and convolutions; gradients in float64."""

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from torch import Tensor
from torch.autograd import gradcheck

pytestmark = pytest.mark.core


def boxes() -> Tensor:
    """Boxes inside, across the border, outside, without area, inverted and around a map of 7 x 9."""
    return torch.tensor([[1, 1, 6.5, 5], [-3, 2.2, 4, 9], [20, 20, 30, 25], [3, 3, 3, 3], [6, 5, 2, 1],
                         [-0.5, -0.5, 8.7, 6.9]], dtype=torch.float64)


def sample(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of a plane, 0 more than a pixel outside; between -1 and 0 the border counts."""
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return plane.new_zeros(())
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    top = plane[y0, x0] * (1 - x + x0) + plane[y0, x1] * (x - x0)
    bottom = plane[y1, x0] * (1 - x + x0) + plane[y1, x1] * (x - x0)
    return top * (1 - y + y0) + bottom * (y - y0)


@pytest.mark.parametrize('pool_size', [1, 4])
def test_borders_have_their_largest_sample(path: str, pool_size: int) -> None:
    features = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    both = torch.stack([boxes(), boxes().flip(0)])
    out = ops.border_align(features, both, pool_size)
    assert out.shape == (2, 2, 6, 4)
    for n in range(2):
        for k, (x1, y1, x2, y2) in enumerate(both[n].tolist()):
            corners = ((x1, y1, x2, y1), (x1, y1, x1, y2), (x2, y2, x1, y2), (x2, y2, x2, y1))
            for border, (ax, ay, bx, by) in enumerate(corners):
                for c in range(2):
                    values = [sample(features[n, 2 * border + c], ay + (by - ay) * i / pool_size,
                                     ax + (bx - ax) * i / pool_size) for i in range(pool_size + 1)]
                    torch.testing.assert_close(out[n, c, k, border], max(values))


def test_border_gradcheck_and_the_layer(path: str) -> None:
    features = torch.randn(1, 8, 7, 9, dtype=torch.float64, requires_grad=True)
    layer = ops.BorderAlign(pool_size=3)
    assert gradcheck(lambda f: layer(f, boxes()[None]), features, fast_mode=True)


def test_of_equal_samples_the_first_is_kept(path: str) -> None:
    from mmpapers.ops.border_align import border_align_forward
    output, argmax = torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1, 4), 9, dtype=torch.int32)
    border_align_forward(torch.ones(1, 4, 5, 5), torch.tensor([[[1., 1, 3, 3]]]), output, argmax, 5)
    assert output.eq(1).all() and argmax.eq(0).all()


def test_borders_in_half_precision_and_of_no_boxes(path: str) -> None:
    features = torch.randn(1, 4, 7, 9)
    inside = boxes()[None, :2].float()
    out = ops.border_align(features.half(), inside.half(), 3)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), ops.border_align(features, inside, 3), atol=2e-2, rtol=2e-2)
    wide = features.to(memory_format=torch.channels_last)
    assert torch.equal(ops.border_align(wide, inside, 3), ops.border_align(features, inside, 3))
    assert ops.border_align(features[:0], inside[:0], 3).shape == (0, 1, 2, 4)
    leaf = features.clone().requires_grad_()
    ops.border_align(leaf, torch.zeros(1, 0, 4), 3).sum().backward()
    assert leaf.grad.eq(0).all()


SETTINGS = [dict(), dict(max_displacement=2), dict(kernel_size=3, padding=1), dict(stride=2, kernel_size=2),
            dict(kernel_size=3, padding=2, dilation=2), dict(max_displacement=2, dilation_patch=3, padding=1, stride=2)]


@pytest.mark.parametrize('setting', SETTINGS, ids=lambda s: ' '.join(f'{k}={v}' for k, v in s.items()) or 'plain')
def test_correlation_is_its_definition(setting: dict) -> None:
    first, second = torch.randn(2, 2, 3, 6, 7, dtype=torch.float64)
    layer = ops.Correlation(**setting)
    out = layer(first, second)
    kernel, pad, dilation, reach = layer.kernel_size, layer.padding, layer.dilation, layer.max_displacement
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            dy, dx = ((v - reach) * layer.dilation_patch for v in (i, j))
            for y in range(out.shape[3]):
                for x in range(out.shape[4]):
                    total = first.new_zeros(2)
                    for a in range(kernel):
                        for b in range(kernel):
                            y1, x1 = y * layer.stride - pad + a * dilation, x * layer.stride - pad + b * dilation
                            y2, x2 = y1 + dy, x1 + dx
                            if 0 <= min(y1, y2) <= max(y1, y2) < 6 and 0 <= min(x1, x2) <= max(x1, x2) < 7:
                                total += (first[:, :, y1, x1] * second[:, :, y2, x2]).sum(1)
                    torch.testing.assert_close(out[:, i, j, y, x], total)


@pytest.mark.parametrize('setting', SETTINGS, ids=lambda s: ' '.join(f'{k}={v}' for k, v in s.items()) or 'plain')
def test_correlation_gradcheck(setting: dict) -> None:
    maps = [torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert gradcheck(ops.Correlation(**setting), maps, fast_mode=True)


def test_correlation_without_shift_is_a_product(path: str) -> None:
    first, second = torch.randn(2, 2, 16, 6, 7)
    out = ops.Correlation(max_displacement=0)(first, second)
    torch.testing.assert_close(out[:, 0, 0], (first * second).sum(1))
    wide = ops.Correlation(max_displacement=9)(first, second)  # most shifts leave no overlap
    torch.testing.assert_close(wide[:, 9, 9], out[:, 0, 0])
    assert wide[:, 0].eq(0).all()
    shifted = F.pad(second, (0, 2))[..., 2:]
    torch.testing.assert_close(wide[:, 9, 11], (first * shifted).sum(1))
    with pytest.raises(ValueError, match='the two maps must have one shape'):
        ops.Correlation()(first, second[..., :5])
