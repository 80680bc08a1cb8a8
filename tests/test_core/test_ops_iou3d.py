"""3D IoU, 3D NMS and differentiable rotated IoU against shapely and loops, through mmcv's and mmdet3d's functions."""

import math

import pytest
import torch
from mmcv import ops
from mmengine import ConfigDict
from shapely.geometry import Polygon
from torch import Tensor

from mmpapers.ops import iou3d
from mmpapers.ops.diff_iou_rotated import diff_iou_rotated_sort_vertices_forward as sort_vertices

pytestmark = pytest.mark.core


def make(n: int, extent: float = 10, dtype: torch.dtype = torch.float32) -> Tensor:
    """Boxes x, y, z, dx, dy, dz, heading that crowd."""
    size = torch.rand(n, 3) * 5 + 0.1
    return torch.cat([torch.rand(n, 3) * extent, size, torch.rand(n, 1) * 14 - 7], 1).to(dtype)


def seen_from_above(box: Tensor) -> Polygon:
    """The rectangle of a box."""
    x, y, _, w, h, _, angle = box.tolist()
    c, s = math.cos(angle), math.sin(angle)
    return Polygon([(x + (u * w * c - v * h * s) / 2, y + (u * w * s + v * h * c) / 2)
                    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))])


def shared(a: Tensor, b: Tensor) -> Tensor:
    """Areas that boxes share, seen from above, by shapely, (N, M)."""
    return torch.tensor([[seen_from_above(p).intersection(seen_from_above(q)).area for q in b] for p in a],
                        dtype=torch.float64).view(len(a), len(b))


def volume_iou(a: Tensor, b: Tensor) -> Tensor:
    """3D IoU of boxes whose z is that of their centre, (N, M)."""
    low = torch.maximum(a[:, None, 2] - a[:, None, 5] / 2, b[:, 2] - b[:, 5] / 2)
    high = torch.minimum(a[:, None, 2] + a[:, None, 5] / 2, b[:, 2] + b[:, 5] / 2)
    volume = shared(a, b) * (high - low).clamp(min=0)
    return volume / (a[:, None, 3:6].prod(-1) + b[:, 3:6].prod(-1) - volume)


def loop(ious: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Greedy NMS by definition, in the order that mmcv sorts in."""
    kept = []
    for i in scores.sort(0, descending=True)[1].tolist():
        if not any(ious[k, i] > threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_overlaps_are_those_of_shapely(path: str, dtype: torch.dtype) -> None:
    a, b = make(15, dtype=dtype), make(20, dtype=dtype)
    result = ops.iou3d.boxes_overlap_bev(a, b)
    assert result.dtype == dtype and (result > 0).sum() > 30
    torch.testing.assert_close(result.double(), shared(a, b), atol=2e-5 if dtype == torch.float32 else 1e-9, rtol=0)
    torch.testing.assert_close(ops.boxes_iou3d(a, b).double(), volume_iou(a.double(), b.double()), atol=5e-6, rtol=0)
    assert ops.boxes_iou3d(a[:0], b).shape == (0, 20) and ops.boxes_iou3d(a, b[:0]).shape == (15, 0)


def test_equal_touching_nested_and_empty_boxes(path: str) -> None:
    unit = torch.tensor([1., 1, 1, 2, 2, 2, 0.3])
    above, inner, empty, beside = unit.clone(), unit.clone(), unit.clone(), unit.clone()
    above[2], inner[3:6], empty[3:6], beside[0] = 3, 1, 0, 1 + 2 * math.sqrt(2)
    boxes = torch.stack([unit, unit, above, inner, empty, beside])
    torch.testing.assert_close(ops.boxes_iou3d(unit[None], boxes)[0], torch.tensor([1, 1, 0, 1 / 8, 0, 0]), atol=1e-6,
                               rtol=0)
    torch.testing.assert_close(ops.iou3d.boxes_overlap_bev(unit[None], boxes)[0], torch.tensor([4., 4, 4, 1, 0, 0]),
                               atol=2e-6, rtol=0)


@pytest.mark.parametrize('ties', [False, True])
def test_nms3d_is_greedy(path: str, ties: bool) -> None:
    boxes, scores = make(45), torch.rand(45)
    boxes[::9] = boxes[0]
    if ties:
        scores = (scores * 3).round()
    area = boxes[:, 3] * boxes[:, 4]
    overlap = shared(boxes, boxes)
    upright = boxes.clone()
    upright[:, 6] = 0
    flat = shared(upright, upright)
    for nms, both in ((ops.nms3d, overlap), (ops.nms3d_normal, flat)):
        for threshold in (0.0, 0.1, 0.5):
            kept = nms(boxes, scores, threshold)
            assert kept.dtype == torch.int64
            assert kept.tolist() == loop(both / (area[:, None] + area - both), scores, threshold)


def test_nms3d_writes_its_outputs_in_place(path: str) -> None:
    boxes = torch.tensor([[0., 0, 0, 2, 2, 2, 0], [0.1, 0, 0, 2, 2, 2, 0], [9, 0, 0, 2, 2, 2, 0]])
    for nms in (iou3d.iou3d_nms3d_forward, iou3d.iou3d_nms3d_normal_forward):
        keep, count = torch.full((3,), -7), torch.zeros((), dtype=torch.long)
        nms(boxes, keep, count, nms_overlap_thresh=0.5)
        assert keep.tolist() == [0, 2, -7] and count.item() == 2
        nms(boxes[:0], keep[:0], count, 0.5)
        assert count.item() == 0
        nms(boxes * torch.tensor([1, 1, 1, 0, 0, 0, 1]), keep, count, 0.0)
        assert keep.tolist() == [0, 1, 2]  # empty boxes overlap nothing


def test_rotated_and_bev_nms_of_mmcv_and_mmdet3d_agree(path: str) -> None:
    from mmdet3d.models.layers import box3d_multiclass_nms, nms_bev
    boxes, scores = make(50, 14), torch.rand(50)
    kept = ops.nms3d(boxes, scores, 0.2)
    x, y, w, h, angle = boxes[:, [0, 1, 3, 4, 6]].unbind(1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, angle], 1)
    assert torch.equal(nms_bev(corners, scores, 0.2), kept)
    assert torch.equal(ops.iou3d.nms_bev(corners, scores, 0.2, post_max_size=5), kept[:5])
    best = scores.topk(20)[1]
    assert torch.equal(nms_bev(corners, scores, 0.2, pre_max_size=20), kept[torch.isin(kept, best)])
    per_class = torch.stack([scores, torch.rand(50), torch.zeros(50)], 1)
    found, values, labels = box3d_multiclass_nms(boxes, corners, per_class, 0.3, 100,
                                                 ConfigDict(use_rotate_nms=True, nms_thr=0.2))
    for k in range(2):
        good = (per_class[:, k] > 0.3).nonzero()[:, 0]
        expected = good[ops.nms3d(boxes[good], per_class[good, k], 0.2)]
        assert torch.equal(found[labels == k], boxes[expected])
        assert torch.equal(values[labels == k], per_class[expected, k])


def test_overlaps_of_mmdet3d_boxes(path: str) -> None:
    from mmdet3d.structures import DepthInstance3DBoxes, LiDARInstance3DBoxes
    a, b = make(10), make(12)
    iou = volume_iou(a.double(), b.double())
    for kind in (LiDARInstance3DBoxes, DepthInstance3DBoxes):
        p, q = kind(a, origin=(0.5, 0.5, 0.5)), kind(b, origin=(0.5, 0.5, 0.5))
        torch.testing.assert_close(kind.overlaps(p, q).double(), iou, atol=5e-6, rtol=0)
    assert LiDARInstance3DBoxes.overlaps(p := LiDARInstance3DBoxes(a), p).diag() == pytest.approx(1, abs=1e-5)


def test_differentiable_iou_is_that_of_shapely() -> None:
    a, b = make(40, 5, torch.float64), make(40, 5, torch.float64)
    torch.testing.assert_close(ops.diff_iou_rotated_3d(a[None], b[None])[0], volume_iou(a, b).diag(), atol=1e-6, rtol=0)
    flat = ops.diff_iou_rotated_2d(a[None][..., [0, 1, 3, 4, 6]], b[None][..., [0, 1, 3, 4, 6]])[0]
    torch.testing.assert_close(flat, ops.box_iou_rotated(a[:, [0, 1, 3, 4, 6]], b[:, [0, 1, 3, 4, 6]], aligned=True),
                               atol=1e-6, rtol=0)
    assert (flat > 0).sum() > 10 and (flat == 0).sum() > 5


@pytest.mark.parametrize('dims', [2, 3])
def test_differentiable_iou_gradcheck(dims: int) -> None:
    a, b = make(12, 2, torch.float64), make(12, 2, torch.float64)
    if dims == 2:
        a, b = a[:, [0, 1, 3, 4, 6]], b[:, [0, 1, 3, 4, 6]]
    iou = ops.diff_iou_rotated_2d if dims == 2 else ops.diff_iou_rotated_3d
    leaves = [a[None].requires_grad_(), b[None].requires_grad_()]
    assert (iou(*leaves) > 0.01).sum() > 6
    assert torch.autograd.gradcheck(iou, leaves, atol=1e-4, eps=1e-7, fast_mode=True)


DIAMOND = math.pi / 4
SPECIAL = [((1, 1, 2, 2, 0.4), (1, 1, 2, 2, 0.4), 1), ((1, 1, 2, 2, 0), (1, 1, 2, 2, 0), 1),
           ((0, 0, 4, 4, 0), (0, 0, 2, 2, DIAMOND), 1 / 4), ((0, 0, 2, 2, 0), (0, 0, 2, 2, DIAMOND), 1 / math.sqrt(2)),
           ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0), ((0, 0, 2, 2, 0), (9, 9, 2, 2, 1), 0),
           ((0, 0, 2, 2, 0), (0.5, 0, 1, 1, 0), 1 / 4), ((0, 0, 4, 2, 0), (0, 0, 2, 4, 0), 1 / 3),
           ((0, 0, 2, 2, 0), (1e-7, 1e-7, 2, 2, 1e-7), 1), ((0, 0, 2, 2, 0.3), (1, 1, 2, 2, 0.3 + math.pi / 2), None)]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_differentiable_iou_of_special_rectangles(dtype: torch.dtype) -> None:
    a, b = (torch.tensor([[case[k] for case in SPECIAL]], dtype=dtype, requires_grad=True) for k in (0, 1))
    ious = torch.tensor([case[2] for case in SPECIAL[:-1]] + [0.], dtype=dtype)
    ious[-1] = ops.box_iou_rotated(a[0].detach(), b[0].detach(), aligned=True)[-1]
    result = ops.diff_iou_rotated_2d(a, b)
    torch.testing.assert_close(result[0].detach(), ious, atol=1e-5, rtol=0)
    result.sum().backward()
    assert a.grad.isfinite().all() and b.grad.isfinite().all()


SQUARE = torch.tensor([[1., 1], [-1, 1], [-1, -1], [1, -1]])


def test_vertices_are_sorted_counterclockwise_and_closed() -> None:
    angles = torch.tensor([130., 10, 250, 70, 310, 190]).deg2rad()
    slots = [3, 14, 9, 7, 20, 8]
    vertices, mask = torch.zeros(1, 2, 24, 2), torch.zeros(1, 2, 24, dtype=torch.bool)
    vertices[:, :, :8] = 2 * SQUARE.repeat(2, 1)
    vertices[0, :, slots] = torch.stack([angles.cos(), angles.sin()], 1)
    mask[0, 0, slots] = True
    mask[0, 1, slots[:2]] = True
    result = sort_vertices(vertices, mask, mask.sum(-1).int())
    assert result.dtype == torch.int32 and result.shape == (1, 2, 9)
    assert result[0, 0].tolist() == [14, 7, 3, 8, 9, 20, 14, 10, 10]  # from the x axis on; padded with a spare
    assert result[0, 1].tolist() == [8] * 9  # two points are no polygon


def test_vertices_that_coincide_are_taken_once() -> None:
    vertices, mask = torch.zeros(1, 1, 24, 2), torch.arange(24)[None, None] < 12
    vertices[0, 0, :4], vertices[0, 0, 4:8], vertices[0, 0, 8:12] = SQUARE, SQUARE.roll(1, 0), SQUARE * (1 + 1e-7)
    assert sort_vertices(vertices, mask, mask.sum(-1)).tolist() == [[[0, 1, 2, 3, 0, 12, 12, 12, 12]]]
    mask[..., [3, 7]] = False
    assert sort_vertices(vertices, mask, mask.sum(-1)).tolist() == [[[0, 1, 2, 4, 0, 12, 12, 12, 12]]]
    angles = torch.linspace(0, 6, 16)
    vertices[0, 0, 8:] = torch.stack([angles.cos(), angles.sin()], 1)
    mask[..., 8:] = True
    result = sort_vertices(vertices, mask, mask.sum(-1))[0, 0].tolist()  # 22 points; mmcv writes 23 numbers
    assert len(result) == 9 and result[0] in result[3:]


def test_stray_crossings_are_left_out() -> None:
    vertices, mask = torch.zeros(1, 1, 24, 2), torch.arange(24)[None, None] < 8
    vertices[0, 0, :4], vertices[0, 0, 4:8], vertices[0, 0, 8] = SQUARE, 3 * SQUARE, torch.tensor([40., -50])
    mask[..., 4:8] = False
    mask[..., 8] = True
    assert sort_vertices(vertices, mask, mask.sum(-1)).tolist() == [[[0, 1, 2, 3, 0, 9, 9, 9, 9]]]
    mask[..., 3] = False
    assert sort_vertices(vertices, mask, mask.sum(-1)).tolist() == [[[0, 1, 2, 0, 9, 9, 9, 9, 9]]]
    a = make(50, 2, torch.float64)[None, :, [0, 1, 3, 4, 6]]
    near = ops.diff_iou_rotated_2d(a, a + 1e-9 * torch.randn_like(a))
    torch.testing.assert_close(near, torch.ones_like(near), atol=1e-5, rtol=0)


def test_vertices_of_nothing() -> None:
    vertices, mask = torch.full((1, 1, 24, 2), math.nan), torch.zeros(1, 1, 24, dtype=torch.bool)
    assert sort_vertices(vertices, mask, torch.zeros(1, 1)).tolist() == [[[8] * 9]]
    nothing = sort_vertices(vertices[:, :0], mask[:, :0], torch.zeros(1, 0))
    assert nothing.shape == (1, 0, 9) and nothing.dtype == torch.int32


def test_rotated_iou_loss_of_mmdet3d_brings_boxes_together() -> None:
    from mmdet3d.models.losses import RotatedIoU3DLoss
    target = make(6, 20)
    target[:, 3:6] += 1
    pred = (target + torch.randn(6, 7) * 0.2).requires_grad_()
    loss, optimizer = RotatedIoU3DLoss(), torch.optim.Adam([pred], 0.05)
    start = loss(pred, target).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss(pred, target).backward()
        assert pred.grad.isfinite().all()
        optimizer.step()
    assert start > 0.25 and loss(pred, target).item() < 0.1


@pytest.mark.parametrize('call', [
    lambda: ops.iou3d.boxes_overlap_bev(torch.ones(2, 5), torch.ones(2, 7)),
    lambda: iou3d.iou3d_nms3d_forward(torch.ones(2, 9), torch.zeros(2), torch.zeros(()), 0.5),
    lambda: iou3d.iou3d_nms3d_normal_forward(torch.ones(2, 9), torch.zeros(2), torch.zeros(()), 0.5)])
def test_wrong_shapes_are_named(call: callable) -> None:
    with pytest.raises(ValueError, match=r'iou3d_\w+: boxes must be \(N, 7\) .* velocities off: boxes\[:, :7\]'):
        call()
