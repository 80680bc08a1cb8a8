"""Deformable RoI pooling against a loop over samples and its own numeric gradient; mmcv has no CPU kernel."""

import math

import pytest
import torch
from mmcv.ops import DeformRoIPoolPack, ModulatedDeformRoIPoolPack
from mmcv.ops.deform_roi_pool import deform_roi_pool
from torch import Tensor

from mmpapers.ops import _deform_cols as cols

pytestmark = pytest.mark.core
ROIS = torch.tensor([[0, 1.3, 2.1, 20.2, 22.7], [1, 0, 0, 31, 25], [1, -4, -4, 40.3, 33], [0, 5, 5, 5, 5],
                     [1, 90, 90, 99, 99]], dtype=torch.float64)
BINS, SCALE, GAMMA = (3, 2), 0.25, 0.3


@pytest.fixture(params=['compiled', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on each of the two implementations."""
    if request.param == 'torch':
        monkeypatch.setattr(cols, 'im2col', cols._im2col_torch)
        monkeypatch.setattr(cols, 'col2im', cols._col2im_torch)
    return request.param


def pool(x: Tensor, rois: Tensor, offset: Tensor | None, ratio: int) -> Tensor:
    return deform_roi_pool(x, rois, offset, BINS, SCALE, ratio, GAMMA)


def leaves() -> tuple[Tensor, Tensor]:
    return (torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True),
            torch.randn(5, 2, *BINS, dtype=torch.float64, requires_grad=True))


def interpolate(plane: Tensor, y: float, x: float) -> float:
    """Bilinear value; up to a pixel outside the border's own, further away 0."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    i, j = int(y), int(x)
    below, right = min(i + 1, height - 1), min(j + 1, width - 1)
    upper = plane[i, j] * (1 - (x - j)) + plane[i, right] * (x - j)
    lower = plane[below, j] * (1 - (x - j)) + plane[below, right] * (x - j)
    return float(upper * (1 - (y - i)) + lower * (y - i))


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('moved', [True, False])
def test_loop_reference(ratio: int, moved: bool, path: str) -> None:
    x, offset = (t.detach() for t in leaves())
    out = pool(x, ROIS, offset if moved else None, ratio)
    expected = torch.zeros(5, 3, *BINS, dtype=torch.float64)
    for r, (image, *box) in enumerate(ROIS.tolist()):
        x1, y1, x2, y2 = (v * SCALE - 0.5 for v in box)
        bin_h, bin_w = (y2 - y1) / BINS[0], (x2 - x1) / BINS[1]
        rows, columns = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for i in range(BINS[0]):
            for j in range(BINS[1]):
                move_x, move_y = offset[r, :, i, j].tolist() if moved else (0, 0)
                for c in range(3):
                    total = 0.0
                    for a in range(rows):
                        for b in range(columns):
                            total += interpolate(x[int(image), c],
                                                 y1 + GAMMA * (y2 - y1) * move_y + (i + (a + 0.5) / rows) * bin_h,
                                                 x1 + GAMMA * (x2 - x1) * move_x + (j + (b + 0.5) / columns) * bin_w)
                    expected[r, c, i, j] = total / max(rows * columns, 1)
    torch.testing.assert_close(out, expected)
    assert not out[4].any() or moved, 'a RoI beyond the map pools zeros'


@pytest.mark.parametrize('ratio', [0, 2])
def test_gradcheck(ratio: int, path: str) -> None:
    x, offset = leaves()
    assert torch.autograd.gradcheck(lambda a, b: pool(a, ROIS, b, ratio), (x, offset), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a: pool(a, ROIS, None, ratio), (x,), fast_mode=True)


def test_constant_map_pools_its_constant() -> None:
    x = torch.full((1, 2, 9, 9), 3.0)
    out = pool(x, torch.tensor([[0, 8.0, 8.0, 24.0, 24.0]]), torch.zeros(1, 2, *BINS), 0)
    torch.testing.assert_close(out, torch.full((1, 2, *BINS), 3.0))


def test_one_pixel_map_and_no_rois(path: str) -> None:
    x = torch.randn(1, 2, 1, 1, requires_grad=True)
    offset = torch.zeros(1, 2, *BINS, requires_grad=True)
    out = pool(x, torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), offset, 2)
    torch.testing.assert_close(out, x.expand_as(out))
    of_x, of_offset = torch.autograd.grad(out.sum(), (x, offset))
    assert of_x.sum() == out.numel() and not of_offset.any()
    none = pool(x, torch.zeros(0, 5), torch.zeros(0, 2, *BINS), 2)
    none.sum().backward()
    assert none.shape == (0, 2, *BINS) and not x.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, offset = (t.detach().to(dtype) for t in leaves())
    rois = ROIS.to(dtype)
    out = pool(x, rois, offset, 2)
    assert out.dtype == dtype
    torch.testing.assert_close(out, pool(x.float(), rois.float(), offset.float(), 2).to(dtype))


def test_layers_of_mmcv_train() -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    for layer in (DeformRoIPoolPack(BINS, 4, 8, SCALE, 2, GAMMA), ModulatedDeformRoIPoolPack(BINS, 4, 8, SCALE, 2)):
        out = layer(x, ROIS.float())
        out.square().sum().backward()
        assert out.shape == (5, 4, *BINS)
        assert layer.offset_fc[-1].bias.grad.any() and x.grad.any()


def test_errors_say_what_to_pass() -> None:
    x, offset = (t.detach() for t in leaves())
    with pytest.raises(ValueError, match=r'deform_roi_pool_forward: .*offset must be \(5, 2, 3, 2\)'):
        pool(x, ROIS, offset[:2], 2)
    with pytest.raises(ValueError, match='rois name images 0 to 1, but the batch holds 0 to 0'):
        pool(x[:1], ROIS, offset, 2)
