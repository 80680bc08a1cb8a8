"""Overlaps of boxes against a loop."""

import pytest
import torch
from mmcv import ops

from mmpapers.ops import bbox_overlaps

pytestmark = pytest.mark.core


def boxes(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Crowded boxes of some area."""
    corner = torch.rand(n, 2, dtype=dtype) * 20
    return torch.cat([corner, corner + torch.rand(n, 2, dtype=dtype) * 15 + 1], 1)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('offset', [0, 1])
def test_overlaps_are_their_definition(mode: str, offset: int) -> None:
    a, b = boxes(6), boxes(9)
    expected = torch.zeros(6, 9, dtype=torch.float64)
    for i, p in enumerate(a.tolist()):
        for j, q in enumerate(b.tolist()):
            w, h = (max(min(p[k + 2], q[k + 2]) - max(p[k], q[k]) + offset, 0) for k in (0, 1))
            areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (p, q)]
            expected[i, j] = w * h / (areas[0] if mode == 'iof' else sum(areas) - w * h)
    torch.testing.assert_close(ops.bbox_overlaps(a, b, mode, offset=offset), expected)
    torch.testing.assert_close(ops.bbox_overlaps(a, b[:6], mode, True, offset), expected[:, :6].diagonal())


def test_properties_and_limits() -> None:
    a = boxes(8)
    assert torch.equal(ops.bbox_overlaps(a, a).diagonal(), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(ops.bbox_overlaps(a, a), ops.bbox_overlaps(a, a).T)
    assert ops.bbox_overlaps(a[:0], a).shape == (0, 8)
    assert ops.bbox_overlaps(torch.zeros(0), torch.zeros(0)).shape == (0, 0)
    point = torch.tensor([[3., 3, 3, 3]])
    assert ops.bbox_overlaps(point, point).isnan().all()  # 0 / 0
    assert ops.bbox_overlaps(point, point, offset=1).item() == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float32(dtype: torch.dtype) -> None:
    a, b = boxes(5, torch.float32).to(dtype), boxes(7, torch.float32).to(dtype)
    assert torch.equal(ops.bbox_overlaps(a, b), ops.bbox_overlaps(a.float(), b.float()).to(dtype))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r'bbox_overlaps: 3 and 4 boxes with aligned=True .* come in pairs'):
        bbox_overlaps.bbox_overlaps(boxes(3), boxes(4), torch.zeros(3), 0, True, 0)
    with pytest.raises(ValueError, match=r'3 and 4 boxes with aligned=False do not fit .* \(4, 3\)'):
        bbox_overlaps.bbox_overlaps(boxes(3), boxes(4), torch.zeros(4, 3), 0, False, 0)
