"""RoIAlign, RoI pooling and corner pooling against loops; gradients through mmcv's functions."""

import math

import pytest
import torch
from mmcv import ops
from torch import Tensor

from mmpapers.ops import roi_align

pytestmark = pytest.mark.core


def make(h: int = 9, w: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two images of three channels and RoIs inside, across the border, outside, without area and around the map."""
    features = torch.randn(2, 3, h, w, dtype=dtype)
    rois = torch.tensor([[0, 4, 6, 20, 30], [1, 10.3, 2.1, 17.9, 33.3], [1, -9, -9, 14, 8], [0, 30, 20, 70, 50],
                         [0, -90, -80, -70, -60], [1, 5, 5, 5, 5], [0, -40, -40, 90, 90]], dtype=dtype)
    return features, rois


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


def loop_align(features: Tensor, rois: Tensor, size: tuple, scale: float, ratio: int, mode: str,
               aligned: bool) -> Tensor:
    """RoIAlign by definition, one sample after the other."""
    out = features.new_zeros(len(rois), features.shape[1], *size)
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in box)
        extent = [y2 - y1, x2 - x1] if aligned else [max(y2 - y1, 1), max(x2 - x1, 1)]
        step = [e / n for e, n in zip(extent, size)]
        grid = [ratio or math.ceil(s) for s in step]
        for c in range(features.shape[1]):
            for p in range(size[0]):
                for q in range(size[1]):
                    values = [sample(features[int(image), c], y1 + (p + (i + 0.5) / grid[0]) * step[0],
                                     x1 + (q + (j + 0.5) / grid[1]) * step[1])
                              for i in range(grid[0]) for j in range(grid[1])]
                    if mode == 'avg':
                        out[r, c, p, q] = sum(values) / max(len(values), 1)
                    else:
                        out[r, c, p, q] = max([-10000, *values])
    return out


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_is_its_definition(path: str, mode: str, ratio: int, aligned: bool) -> None:
    features, rois = make()
    out = ops.roi_align(features, rois, (3, 2), 0.25, ratio, mode, aligned)
    torch.testing.assert_close(out, loop_align(features, rois, (3, 2), 0.25, ratio, mode, aligned), atol=1e-10, rtol=0)


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('h, w', [(6, 5), (1, 1), (1, 4)])
def test_roi_align_gradcheck(path: str, mode: str, h: int, w: int) -> None:
    features, rois = make(h, w)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: ops.roi_align(f, rois, (2, 3), 0.25, 0, mode, True), features,
                                    fast_mode=True)


def test_threads_share_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = make(dtype=torch.float32)
    one = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = features.clone().requires_grad_()
        out = ops.roi_align(leaf, rois, 3, 0.25)
        out.square().sum().backward()
        one += [out, leaf.grad]
    torch.set_num_threads(2)
    assert torch.equal(one[0], one[2]) and torch.equal(one[1], one[3])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_in_half_precision_is_the_rounded_float32(path: str, mode: str, dtype: torch.dtype) -> None:
    features, rois = make(dtype=dtype)
    leaves = [features.requires_grad_(), features.detach().float().requires_grad_()]
    outs = [ops.roi_align(leaf, r, 3, 0.25, 2, mode) for leaf, r in zip(leaves, (rois, rois.float()))]
    assert torch.equal(outs[0], outs[1].to(dtype))
    for out in outs:
        out.sum().backward()
    assert leaves[0].grad.dtype == dtype
    torch.testing.assert_close(leaves[0].grad.float(), leaves[1].grad, atol=0.3, rtol=0.02)


def test_a_linear_map_is_averaged_exactly() -> None:
    y, x = torch.meshgrid(torch.arange(20.), torch.arange(30.), indexing='ij')
    out = ops.roi_align((3 * y - 2 * x)[None, None], torch.tensor([[0, 2., 3, 14, 11]]), (2, 3), 1.0, 0, 'avg', True)
    rows, columns = torch.tensor([4.5, 8.5]), torch.tensor([3.5, 7.5, 11.5])  # bin centres less half a pixel
    torch.testing.assert_close(out[0, 0], 3 * rows[:, None] - 2 * columns, atol=1e-5, rtol=0)


@pytest.mark.parametrize('pool', [ops.roi_align, ops.roi_pool])
def test_no_rois_give_an_empty_result_and_no_gradient(path: str, pool: callable) -> None:
    features = torch.randn(1, 3, 4, 5, requires_grad=True)
    out = pool(features, torch.zeros(0, 5), (2, 2))
    out.sum().backward()
    assert out.shape == (0, 3, 2, 2) and not features.grad.any()


def test_mixed_strides_and_layouts_do_not_matter(path: str) -> None:
    features, rois = make(dtype=torch.float32)
    expected = ops.roi_align(features, rois, 3, 0.25)
    assert torch.equal(ops.roi_align(features.contiguous(memory_format=torch.channels_last), rois, 3, 0.25), expected)
    leaf = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    ops.roi_align(leaf, rois, 3, 0.25).transpose(2, 3).cumsum(-1).sum().backward()
    other = features.clone().requires_grad_()
    ops.roi_align(other, rois, 3, 0.25).transpose(2, 3).cumsum(-1).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def loop_pool(features: Tensor, rois: Tensor, size: tuple, scale: float) -> Tensor:
    """RoI max pooling by definition."""
    out = features.new_zeros(len(rois), features.shape[1], *size)
    h, w = features.shape[2:]
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for p in range(size[0]):
            for q in range(size[1]):
                t, b = (min(max(f(y1 + k * (y2 - y1) / size[0]), 0), h)
                        for f, k in ((math.floor, p), (math.ceil, p + 1)))
                left, right = (min(max(f(x1 + k * (x2 - x1) / size[1]), 0), w)
                               for f, k in ((math.floor, q), (math.ceil, q + 1)))
                if b > t and right > left:
                    out[r, :, p, q] = features[int(image), :, t:b, left:right].amax((1, 2))
    return out


def test_roi_pool_is_its_definition_and_differentiable(path: str) -> None:
    features, rois = make()
    rois = torch.cat([rois, torch.tensor([[0, 9., 9, 7, 7]], dtype=rois.dtype)])  # negative size
    out = ops.roi_pool(features, rois, (3, 2), 0.25)
    torch.testing.assert_close(out, loop_pool(features, rois, (3, 2), 0.25), atol=0, rtol=0)
    assert torch.autograd.gradcheck(lambda f: ops.roi_pool(f, rois, (3, 2), 0.25), features.requires_grad_(),
                                    fast_mode=True)


def test_roi_pool_prefers_the_first_of_equal_pixels_and_skips_empty_rois(path: str) -> None:
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    rois = torch.tensor([[0., 1, 1, 2, 2], [0, 3, 3, 1, 1]])
    ops.roi_pool(features, rois, 1).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize('mode', ['top', 'bottom', 'left', 'right'])
def test_corner_pool_of_mmcv_needs_no_kernel(mode: str) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    out = ops.CornerPool(mode)(x)
    for i in range(5):
        for j in range(6):
            seen = {'top': x[:, :, i:, j], 'bottom': x[:, :, :i + 1, j], 'left': x[:, :, i, j:],
                    'right': x[:, :, i, :j + 1]}[mode]
            assert torch.equal(out[:, :, i, j], seen.amax(-1))
    assert torch.autograd.gradcheck(ops.CornerPool(mode), x)


@pytest.mark.parametrize('rois, words', [
    (torch.zeros(2, 4), ['(R, 5)', '(2, 4)', 'bbox2roi']),
    (torch.tensor([[2., 0, 0, 1, 1]]), ['images 2 to 2', 'hold 1', 'batch']),
    (torch.tensor([[0., 0, 0, float('nan'), 1]]), ['RoI 0', 'nan', 'clip_grad']),
    (torch.tensor([[0., 5, 0, 1, 1]]), ['RoI 0', 'x2 >= x1']),
])
def test_malformed_rois_are_named(rois: Tensor, words: list[str]) -> None:
    blank = torch.zeros(len(rois), 1, 2, 2)
    with pytest.raises(ValueError) as error:
        roi_align.roi_align_forward(torch.zeros(1, 1, 8, 8), rois, blank, blank, blank, 2, 2, 1.0, 2, 1, True)
    assert 'roi_align' in str(error.value) and all(word in str(error.value) for word in words)
