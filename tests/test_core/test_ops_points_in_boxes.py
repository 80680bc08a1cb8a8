"""Points in boxes and polygons against loops, through mmcv's functions and mmdet3d's boxes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops
from mmdet3d.structures import Box3DMode, CameraInstance3DBoxes, DepthInstance3DBoxes, LiDARInstance3DBoxes
from shapely.geometry import Point, Polygon
from torch import Tensor

from mmpapers.ops import _numba, points_in_boxes

pytestmark = pytest.mark.core


@pytest.fixture(params=['numba', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the numba kernels and on the code for other devices."""
    if request.param == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
        monkeypatch.setattr(points_in_boxes, '_PAIRS', 64)
    return request.param


def make(boxes: int, points: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two clouds (2, M, 3) with boxes (2, T, 7)."""
    turn = torch.rand(2, boxes, 1) * 14 - 7
    return (torch.cat([torch.rand(2, boxes, 3) * 4, torch.rand(2, boxes, 3) * 4, turn], 2).to(dtype),
            (torch.rand(2, points, 3) * 6 - 1).to(dtype))


def is_inside(box: Tensor, point: Tensor) -> bool:
    """By definition."""
    x, y, z, dx, dy, dz, turn = box.tolist()
    px, py, pz = point.tolist()
    c, s = math.cos(turn), math.sin(turn)
    along, across = (px - x) * c + (py - y) * s, (py - y) * c - (px - x) * s
    return abs(pz - z - dz / 2) <= dz / 2 and abs(along) < dx / 2 and abs(across) < dy / 2


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_points_are_in_boxes_by_definition(path: str, dtype: torch.dtype) -> None:
    boxes, points = make(7, 60, dtype)
    expected = torch.tensor([[[is_inside(b, p) for b in bs] for p in ps] for bs, ps in zip(boxes, points)]).int()
    assert expected.sum() > 15
    everything = ops.points_in_boxes_all(points, boxes)
    assert everything.dtype == torch.int32 and torch.equal(everything, expected)
    assert torch.equal(ops.points_in_boxes_cpu(points, boxes), expected)
    first = ops.points_in_boxes_part(points, boxes)
    assert first.dtype == torch.int32
    assert torch.equal(first, torch.where(expected.any(2), expected.argmax(2), -1).int())


def test_bottom_and_top_are_inside_and_sides_are_not(path: str) -> None:
    box = torch.tensor([[[1., 1, 1, 2, 2, 2, 0]]])
    points = torch.tensor([[[1., 1, 1], [1, 1, 3], [1, 1, 0.999], [1, 1, 3.001], [0, 1, 2], [2, 1, 2], [1, 0, 2],
                            [1, 2, 2], [0.001, 1, 2], [1, 1.999, 2]]])
    assert ops.points_in_boxes_all(points, box)[0, :, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def test_empty_boxes_hold_nothing_and_bad_points_are_nowhere(path: str) -> None:
    flat = torch.tensor([[[1., 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 2, 2, 0], [1, 1, 1, 2, 2, 0, 0],
                          [1, 1, 1, -2, 2, 2, 0]]])
    assert ops.points_in_boxes_all(torch.ones(1, 1, 3), flat).tolist() == [[[0, 0, 1, 0]]]  # in the plane z = 1
    nan, inf = float('nan'), float('inf')
    bad = torch.tensor([[[nan, 1, 1], [1, nan, 1], [1, 1, nan], [inf, 1, 1], [1, 1, -inf], [nan] * 3, [inf] * 3]])
    box = torch.tensor([[[1., 1, 0, 9, 9, 9, 0.3], [nan, 1, 0, 9, 9, 9, 0.3], [1, 1, 0, 9, 9, 9, nan]]])
    assert not ops.points_in_boxes_all(bad, box).any()
    assert ops.points_in_boxes_part(torch.ones(1, 1, 3), box).tolist() == [[0]]


@pytest.mark.parametrize('boxes, points', [(0, 5), (3, 0), (0, 0), (1, 1)])
def test_no_boxes_and_no_points(path: str, boxes: int, points: int) -> None:
    b, p = make(boxes, points)
    assert ops.points_in_boxes_all(p, b).shape == ops.points_in_boxes_cpu(p, b).shape == (2, points, boxes)
    first = ops.points_in_boxes_part(p, b)
    assert first.shape == (2, points) and (boxes or (first == -1).all())


def test_only_points_in_a_box_are_written(path: str) -> None:
    boxes, points = make(4, 30)
    before = torch.full((2, 30), -9, dtype=torch.int32)
    after = before.clone()
    points_in_boxes.points_in_boxes_part_forward(boxes, points, after)
    inside = ops.points_in_boxes_all(points, boxes).any(2)
    assert torch.equal(after == -9, ~inside) and inside.any() and not inside.all()


@pytest.mark.parametrize('shift', [0, 1e5])
def test_threads_and_far_clouds(shift: float) -> None:
    boxes, points = make(20, 9000, torch.float64)
    expected = ops.points_in_boxes_all(points, boxes)
    moved = [t + torch.tensor([shift, -shift, 0, 0, 0, 0, 0][:t.shape[2]]) for t in (boxes, points)]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(ops.points_in_boxes_all(moved[1], moved[0]), expected)
    torch.set_num_threads(2)


@given(st.lists(st.tuples(*[st.sampled_from([-1, 0, 0.5, 1, 2, 3])] * 3), min_size=1, max_size=8),
       st.sampled_from([0, math.pi / 2, math.pi, 1]))
@settings(max_examples=40, deadline=None)
def test_both_paths_agree_on_points_of_a_grid(points: list, turn: float) -> None:
    cloud, box = torch.tensor(points), torch.tensor([[1., 1, 0, 2, 4, 2, turn], [0, 0, 0, 1, 1, 1, 0]])
    rows = points_in_boxes.box_rows(box)
    assert torch.equal(points_in_boxes.inside(box, cloud), points_in_boxes._inside_torch(rows, cloud.float()))


def test_boxes_of_mmdet3d(path: str) -> None:
    boxes, points = make(6, 80)
    boxes, points = boxes[0], points[0]
    expected = torch.tensor([[is_inside(b, p) for b in boxes] for p in points]).int()
    first = torch.where(expected.any(1), expected.argmax(1), -1).int()
    for kind in (LiDARInstance3DBoxes, DepthInstance3DBoxes):
        assert torch.equal(kind(boxes).points_in_boxes_all(torch.cat([points, points], 1)), expected)
        assert torch.equal(kind(boxes).points_in_boxes_part(points), first)
    camera = CameraInstance3DBoxes(LiDARInstance3DBoxes(boxes).convert_to(Box3DMode.CAM).tensor)
    seen = torch.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1)
    assert (camera.points_in_boxes_all(seen) != expected).float().mean() < 0.01  # boxes go there and back, rounded
    assert (camera.points_in_boxes_part(seen) != first).float().mean() < 0.03


def test_points_in_polygons_are_those_of_shapely() -> None:
    angles = torch.rand(9, 4).sort(1)[0] * 6.28
    quads = torch.stack([angles.cos(), angles.sin()], 2) * 3 + torch.randn(9, 1, 2)
    quads[0] = quads[0].flip(0)
    points = torch.randn(50, 2) * 2
    expected = torch.tensor([[Polygon(q.tolist()).contains(Point(p.tolist())) for q in quads] for p in points])
    result = ops.points_in_polygons(points, quads.flatten(1))
    assert result.dtype == torch.float32 and torch.equal(result, expected.float()) and expected.any()
    assert ops.points_in_polygons(points[:0], quads.flatten(1)).shape == (0, 9)
    assert ops.points_in_polygons(points, quads[:0].flatten(1)).shape == (50, 0)


def polygon_loop(point: tuple, quad: list) -> bool:
    """The count of sides to the right, ended by a corner or side that the point is on."""
    px, py = point
    count = 0
    for k in range(4):
        (sx, sy), (tx, ty) = quad[k], quad[k - 1]
        if not min(sy, ty) <= py <= max(sy, ty):
            continue
        if (sx, sy) == (px, py) or (tx, ty) == (px, py):
            break
        if (sy < py) != (ty < py):
            x = sx + (py - sy) * (tx - sx) / (ty - sy)
            if x == px:
                break
            count += x > px
    return count % 2 == 1


def test_points_on_the_border_of_polygons_follow_the_order_of_its_sides() -> None:
    grid = [(x / 2, y / 2) for x in range(-1, 6) for y in range(-1, 6)]
    square = [(0, 0), (2, 0), (2, 2), (0, 2)]
    quads = [square[k:] + square[:k] for k in range(4)] + [square[::-1], [(0, 0), (2, 1), (0, 2), (1, 1)], [(1, 1)] * 4]
    result = ops.points_in_polygons(torch.tensor(grid), torch.tensor(quads).float().flatten(1))
    assert result.tolist() == [[float(polygon_loop(p, q)) for q in quads] for p in grid]


@pytest.mark.parametrize('boxes, points', [(torch.ones(1, 2, 9), torch.ones(1, 5, 3)),
                                           (torch.ones(1, 2, 7), torch.ones(1, 5, 4)),
                                           (torch.ones(2, 2, 7), torch.ones(1, 5, 3))])
def test_wrong_shapes_are_named(boxes: Tensor, points: Tensor) -> None:
    for op in (points_in_boxes.points_in_boxes_part_forward, points_in_boxes.points_in_boxes_all_forward):
        with pytest.raises(ValueError, match=r'points_in_boxes_\w+: .* boxes\[..., :7\], points\[..., :3\]'):
            op(boxes, points, torch.zeros(1))
