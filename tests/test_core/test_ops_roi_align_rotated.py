"""Rotated RoIAlign against a loop and the upright one; gradients through mmcv's function."""

import math

import pytest
import torch
from mmcv import ops
from torch import Tensor

from mmpapers.ops import roi_align_rotated

pytestmark = pytest.mark.core


def make(h: int = 9, w: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two images of three channels and RoIs inside, across the border, outside, without area and around the map."""
    rois = torch.tensor([[0, 20, 18, 16, 24, 0.4], [1, 10.3, 12.1, 7.9, 23.3, -2], [1, 2, 1, 14, 8, 5],
                         [0, 46, 34, 30, 12, 1], [0, -90, -80, 10, 10, 0.2], [1, 15, 15, 0, 0, 1],
                         [0, 24, 18, 90, 80, 3], [1, 24, 18, 20, 0, 0]], dtype=dtype)
    return torch.randn(2, 3, h, w, dtype=dtype), rois


def sample(plane: Tensor, y: float, x: float) -> float:
    """Bilinear value of a plane with mmcv's rule at the border."""
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = (min(max(v, 0.0), size - 1.0) for v, size in ((y, h), (x, w)))
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    top = plane[y0, x0] * (1 - x + x0) + plane[y0, x1] * (x - x0)
    bottom = plane[y1, x0] * (1 - x + x0) + plane[y1, x1] * (x - x0)
    return float(top * (1 - y + y0) + bottom * (y - y0))


def loop(features: Tensor, rois: Tensor, size: tuple, scale: float, ratio: int, aligned: bool,
         clockwise: bool) -> Tensor:
    """By definition, one sample after the other."""
    out = features.new_zeros(len(rois), features.shape[1], *size)
    for r, (image, cx, cy, w, h, turn) in enumerate(rois.tolist()):
        cx, cy, w, h = cx * scale - 0.5 * aligned, cy * scale - 0.5 * aligned, w * scale, h * scale
        w, h = (w, h) if aligned else (max(w, 1), max(h, 1))
        turn = -turn if clockwise else turn
        c, s = math.cos(turn), math.sin(turn)
        grid = [ratio or math.ceil(e / n) for e, n in zip((h, w), size)]
        for k in range(features.shape[1]):
            for p in range(size[0]):
                for q in range(size[1]):
                    values = []
                    for i in range(grid[0]):
                        for j in range(grid[1]):
                            v = -h / 2 + (p + (i + 0.5) / grid[0]) * h / size[0]
                            u = -w / 2 + (q + (j + 0.5) / grid[1]) * w / size[1]
                            values.append(sample(features[int(image), k], v * c - u * s + cy, v * s + u * c + cx))
                    out[r, k, p, q] = sum(values) / max(len(values), 1)
    return out


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('clockwise', [True, False])
def test_rotated_roi_align_is_its_definition(path: str, ratio: int, aligned: bool, clockwise: bool) -> None:
    features, rois = make()
    out = ops.roi_align_rotated(features, rois, (3, 2), 0.25, ratio, aligned, clockwise)
    torch.testing.assert_close(out, loop(features, rois, (3, 2), 0.25, ratio, aligned, clockwise), atol=1e-10, rtol=0)


def test_without_rotation_it_is_roi_align(path: str) -> None:
    features, rois = make()
    rois[:, 5] = 0
    corners = torch.cat([rois[:, :1], rois[:, 1:3] - rois[:, 3:5] / 2, rois[:, 1:3] + rois[:, 3:5] / 2], 1)
    torch.testing.assert_close(ops.RoIAlignRotated((3, 2), 0.25)(features, rois),
                               ops.roi_align(features, corners, (3, 2), 0.25), atol=1e-10, rtol=0)


def test_a_turn_of_the_roi_is_a_turn_of_the_map(path: str) -> None:
    features = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    roi = torch.tensor([[0, 4.5, 4.5, 5, 3, 0.3]], dtype=torch.float64)
    turned = roi + torch.tensor([0, 0, 0, 0, 0, math.pi / 2], dtype=torch.float64)
    align = ops.RoIAlignRotated(3, 1.0, 2, clockwise=True)
    torch.testing.assert_close(align(features, roi), align(features.rot90(-1, (2, 3)), turned), atol=1e-10, rtol=0)


@pytest.mark.parametrize('h, w', [(6, 5), (1, 1)])
def test_rotated_roi_align_gradcheck(path: str, h: int, w: int) -> None:
    features, rois = make(h, w)
    assert torch.autograd.gradcheck(lambda f: ops.roi_align_rotated(f, rois, (2, 3), 0.25, 0),
                                    features.requires_grad_(), fast_mode=True)


def test_threads_share_the_work_and_layouts_do_not_matter() -> None:
    features, rois = make(dtype=torch.float32)
    features = features.repeat(1, 3, 1, 1)
    results = []
    for threads, layout in ((1, torch.contiguous_format), (2, torch.contiguous_format), (2, torch.channels_last)):
        torch.set_num_threads(threads)
        leaf = features.contiguous(memory_format=layout).detach().requires_grad_()
        out = ops.roi_align_rotated(leaf, rois, 3, 0.25)
        out.square().sum().backward()
        results.append((out, leaf.grad))
    torch.set_num_threads(2)
    for out, grad in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float32(path: str, dtype: torch.dtype) -> None:
    features, rois = make(dtype=dtype)
    out = ops.roi_align_rotated(features, rois, 3, 0.25, 2)
    assert torch.equal(out, ops.roi_align_rotated(features.float(), rois.float(), 3, 0.25, 2).to(dtype))


def test_no_rois(path: str) -> None:
    features = make()[0].requires_grad_()
    out = ops.roi_align_rotated(features, torch.zeros(0, 6, dtype=torch.float64), (2, 2), 1.0)
    out.sum().backward()
    assert out.shape == (0, 3, 2, 2) and not features.grad.any()


@pytest.mark.parametrize('rois, words', [
    (torch.zeros(2, 5), ['(R, 6)', '(2, 5)']),
    (torch.tensor([[2., 0, 0, 1, 1, 0]]), ['images 2 to 2', 'hold 1', 'batch']),
    (torch.tensor([[0., 0, 0, 1, 1, float('nan')]]), ['RoI 0', 'nan', 'clip_grad']),
    (torch.tensor([[0., 5, 0, -1, 1, 0]]), ['RoI 0', 'w >= 0']),
])
def test_malformed_rois_are_named(rois: Tensor, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        roi_align_rotated.roi_align_rotated_forward(torch.zeros(1, 1, 8, 8), rois, torch.zeros(len(rois), 1, 2, 2),
                                                    2, 2, 1.0, 2, True, False)
    assert 'roi_align_rotated' in str(error.value) and all(word in str(error.value) for word in words)
