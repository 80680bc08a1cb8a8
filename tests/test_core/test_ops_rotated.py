"""Rotated IoU and NMS against shapely, loops and compiled kernels; every recorded call of ``ops_boxes3d.npz``."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops
from shapely.geometry import MultiPoint, Polygon
from torch import Tensor

from mmpapers.ops import _numba, _rotated, boundary, box_iou_rotated, nms, nms_rotated

pytestmark = pytest.mark.core

PARITY = np.load(Path(__file__).parents[1] / 'data/parity/ops_boxes3d.npz')
CALLS = json.loads(str(PARITY['calls']))


def make(n: int, extent: float = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rectangles of all shapes and angles that crowd in a square."""
    return torch.cat([torch.rand(n, 2) * extent, torch.rand(n, 2) * 6 + 0.1, torch.rand(n, 1) * 14 - 7], 1).to(dtype)


def corners(box: Tensor) -> list[tuple[float, float]]:
    """Corners of a rectangle in order."""
    x, y, w, h, angle = box.tolist()
    c, s = math.cos(angle), math.sin(angle)
    return [(x + (u * w * c - v * h * s) / 2, y + (u * w * s + v * h * c) / 2)
            for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def quads(boxes: Tensor) -> Tensor:
    """The same rectangles as corners, (N, 8)."""
    return torch.tensor([corners(box) for box in boxes], dtype=boxes.dtype).view(-1, 8)


def shared(a: Tensor, b: Tensor) -> float:
    """Area that two rectangles share, by shapely."""
    return Polygon(corners(a)).intersection(Polygon(corners(b))).area


def expected(a: Tensor, b: Tensor, mode: str) -> Tensor:
    """Ratios by shapely, (N, M)."""
    rows = []
    for p in a:
        areas = [shared(p, q) for q in b]
        rows.append([area / (p[2] * p[3] + (q[2] * q[3] - area if mode == 'iou' else 0)).item()
                     for area, q in zip(areas, b)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize('path_of', ['numba', 'torch'])
@pytest.mark.parametrize('op', sorted({call['op'] for call in CALLS}))
def test_recorded_calls_of_compiled_kernels(op: str, path_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path_of == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    calls = [call for call in CALLS if call['op'] == op]
    assert len(calls) >= 4
    for call in calls:
        arguments, written = dict(call['given']), call['written']
        if op == 'roi_align_rotated_backward':  # compiled under the names of each other
            arguments |= {'grad_output': arguments['rois'], 'rois': arguments['grad_input'],
                          'grad_input': arguments['grad_output']}
            written = {'grad_input': written['grad_output']}
        arguments = {k: torch.from_numpy(PARITY[v].copy()) if isinstance(v, str) else v for k, v in arguments.items()}
        returned = boundary.implementation(op)(**arguments)
        assert (returned is None) == (call['returned'] is None)
        if returned is not None:
            assert torch.equal(returned, torch.from_numpy(PARITY[call['returned']]))
        for name, value in written.items():
            value = torch.from_numpy(PARITY[value])
            tolerance = {torch.int32: 0, torch.float64: 1e-10}.get(value.dtype, 2e-5)  # of thin boxes; else 1e-6
            torch.testing.assert_close(arguments[name], value, atol=tolerance, rtol=0)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_iou_is_that_of_shapely(path: str, dtype: torch.dtype, mode: str) -> None:
    a, b = make(15), make(20)
    tolerance = 1e-9 if dtype == torch.float64 else 5e-6
    a, b = a.to(dtype), b.to(dtype)
    ious = expected(a.double(), b.double(), mode)
    assert (ious > 0).sum() > 30
    for compare, p, q in ((ops.box_iou_rotated, a, b), (ops.box_iou_quadri, quads(a), quads(b))):
        result = compare(p, q, mode)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), ious, atol=tolerance, rtol=0)
        torch.testing.assert_close(compare(p, q[:15], mode, aligned=True), compare(p, q[:15], mode).diag(),
                                   atol=0, rtol=0)
    torch.testing.assert_close(ops.box_iou_rotated(a, b, mode, clockwise=False).double(),
                               expected(a.double() * torch.tensor([1, 1, 1, 1, -1.]),
                                        b.double() * torch.tensor([1, 1, 1, 1, -1.]), mode), atol=tolerance, rtol=0)


PI = math.pi
SPECIAL = [  # two rectangles and their IoU
    ((5, 5, 4, 2, 0.3), (5, 5, 4, 2, 0.3), 1), ((5, 5, 4, 2, 0.3), (5, 5, 4, 2, 0.3 + PI), 1),
    ((5, 5, 4, 2, 0.3), (5, 5, 2, 4, 0.3 - PI / 2), 1), ((5, 5, 4, 2, 0), (7, 5, 4, 2, 0), 1 / 3),
    ((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), 0), ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0),
    ((0, 0, 4, 4, 0), (0, 0, 2, 2, 1), 1 / 4),
    ((0, 0, 2, 2, 0), (0, 0, 2, 2, PI / 4), 1 / math.sqrt(2)), ((0, 0, 0, 2, 0), (0, 0, 2, 2, 0), 0),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 0), ((0, 0, -1, 2, 0), (0, 0, 1, 2, 0), 0),
    ((0, 0, 100, 0.01, 0), (0, 0, 0.01, 100, 0), 1e-4 / (2 - 1e-4)),
    ((1.75, -0.5, 96, 0.0234375, 1.75), (1.75, -0.5, 64, 0.015625, 1.75 + PI + 1e-7), 1 / 2.25),
    ((1e6, -1e6, 4, 2, 1), (1e6, -1e6, 4, 2, 1), 1), ((1e6, 0, 4, 2, 0), (1e6 + 2, 0, 4, 2, 0), 1 / 3),
    ((0, 0, 1e-5, 1e-5, 0.5), (0, 0, 1e-5, 1e-5, 0.5), 1), ((0, 0, 1e5, 1e5, 0.5), (0, 0, 1, 1, 0), 1e-10),
    ((float('nan'), 0, 2, 2, 0), (0, 0, 2, 2, 0), 0), ((0, 0, 2, 2, float('nan')), (0, 0, 2, 2, 0), 0),
    ((float('inf'), 0, 2, 2, 0), (0, 0, 2, 2, 0), 0), ((0, 0, float('nan'), 2, 0), (0, 0, 2, 2, 0), float('nan'))]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_special_rectangles(path: str, dtype: torch.dtype) -> None:
    a, b, ious = (torch.tensor(column, dtype=dtype) for column in zip(*SPECIAL))
    for p, q in ((a, b), (b, a)):
        torch.testing.assert_close(ops.box_iou_rotated(p, q, aligned=True), ious, atol=2e-6, rtol=0, equal_nan=True)
    apart = ious == 0
    assert apart.sum() >= 7 and not ops.box_iou_rotated(a, b).diag()[apart].any()


def test_no_boxes_give_no_ious(path: str) -> None:
    for compare, width in ((ops.box_iou_rotated, 5), (ops.box_iou_quadri, 8)):
        some, none = torch.ones(3, width), torch.ones(0, width)
        assert compare(some, none).shape == (3, 0) and compare(none, some).shape == (0, 3)
        assert compare(none, none, aligned=True).shape == (0,)


def test_half_precision_is_compared_in_float32(path: str) -> None:
    a = make(12).half()
    torch.testing.assert_close(ops.box_iou_rotated(a, a), ops.box_iou_rotated(a.float(), a.float()).half())
    assert torch.equal(nms_rotated.nms_rotated(a, torch.arange(12).half(), None, None, None, 0.3, 0),
                       nms_rotated.nms_rotated(a.float(), torch.arange(12.), None, None, None, 0.3, 0))


def test_pairs_in_blocks_and_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make(150, 30), make(20, 30)
    whole = _rotated.overlaps(a, b, _rotated.Mode.AREA)
    torch.set_num_threads(1)
    assert torch.equal(_rotated.overlaps(a, b, _rotated.Mode.AREA), whole)
    torch.set_num_threads(2)
    monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    monkeypatch.setattr(_rotated, '_PAIRS', 64)
    torch.testing.assert_close(_rotated.overlaps(a, b, _rotated.Mode.AREA), whole, atol=1e-9, rtol=0)


BOX = st.tuples(*[st.floats(-20, 20)] * 2, *[st.floats(0.125, 16)] * 2, st.floats(-7, 7))


@given(BOX, BOX, st.floats(-3, 3), st.floats(-100, 100))
@settings(max_examples=60, deadline=None)
def test_iou_is_symmetric_and_moves_with_the_boxes(a: tuple, b: tuple, turn: float, shift: float) -> None:
    p, q = (torch.tensor([box], dtype=torch.float64) for box in (a, b))
    iou = ops.box_iou_rotated(p, q).item()
    assert 0 <= iou <= 1 + 1e-12
    assert iou == pytest.approx(ops.box_iou_rotated(q, p).item(), abs=1e-10)
    assert iou == pytest.approx(expected(p, q, 'iou').item(), abs=1e-6)  # shapely snaps corners
    c, s = math.cos(turn), math.sin(turn)
    moved = [torch.stack([x * c - y * s + shift, x * s + y * c - shift, w, h, angle + turn], 1)
             for x, y, w, h, angle in (t.unbind(1) for t in (p, q))]
    assert iou == pytest.approx(ops.box_iou_rotated(*moved).item(), abs=1e-9)


def test_quadrilaterals_are_the_hull_of_crossings_and_corners_that_project_onto_two_sides() -> None:
    a, b = (quads(make(12)) + torch.randn(12, 8, dtype=torch.float64) * 0.7 for _ in 'ab')
    result = ops.box_iou_quadri(a, b, 'iof')
    for i, p in enumerate(a.view(-1, 4, 2).numpy()):
        area = sum(abs(np.cross(p[k] - p[0], p[k + 1] - p[0])) for k in (1, 2)) / 2
        for j, q in enumerate(b.view(-1, 4, 2).numpy()):
            points = []
            for k in range(4):
                for m in range(4):
                    u, v = p[(k + 1) % 4] - p[k], q[(m + 1) % 4] - q[m]
                    s, t = np.linalg.solve(np.stack([u, -v], 1), q[m] - p[k])
                    points += [p[k] + s * u] if 0 <= s <= 1 and 0 <= t <= 1 else []
            for inner, outer in ((p, q), (q, p)):
                sides = outer[1] - outer[0], outer[3] - outer[0]
                points += [c for c in inner if all(0 <= (c - outer[0]) @ side <= side @ side for side in sides)]
            hull = MultiPoint(points).convex_hull.area if len(points) > 2 else 0
            assert result[i, j].item() == pytest.approx(hull / area, abs=1e-9)


def loop(ious: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Greedy NMS by definition; of equal scores the earlier wins."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i].item()):
        if not any(ious[k, i] >= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nms_is_greedy_by_stable_score(path: str, dtype: torch.dtype, ties: bool) -> None:
    boxes, scores = make(45, 20, dtype), torch.rand(45, dtype=dtype)
    boxes[::7] = boxes[0]
    if ties:
        scores = (scores * 3).round()
    ious = expected(boxes.double(), boxes.double(), 'iou')
    for threshold in (0.05, 0.4, 0.9):
        for suppress, given_boxes in ((ops.nms_rotated, boxes), (ops.nms_quadri, quads(boxes))):
            dets, kept = suppress(given_boxes, scores, threshold)
            assert kept.dtype == torch.int64 and kept.tolist() == loop(ious, scores, threshold)
            assert torch.equal(dets, torch.cat([given_boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('block', [3, 64])
def test_blocks_of_the_torch_path_do_not_show(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = make(130, 30)
    whole = _rotated.keep(boxes, 0.3, strict=False)
    monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    monkeypatch.setattr(_rotated, 'greedy_torch', functools.partial(nms.greedy_torch, block=block))
    assert torch.equal(_rotated.keep(boxes, 0.3, strict=False), whole)


def test_an_iou_of_just_the_threshold_suppresses_unless_strict(path: str) -> None:
    pair = torch.tensor([[0, 0, 10, 1, 0], [0, 0, 3, 1, 0]], dtype=torch.float32)  # IoU 0.3 in float32
    assert _rotated.keep(pair, 0.3, strict=False).tolist() == [True, False]
    assert _rotated.keep(pair, 0.3, strict=True).tolist() == [True, True]
    apart = torch.tensor([[0., 0, 1, 1, 0], [50, 0, 1, 1, 0]])
    assert _rotated.keep(apart, 0.0, strict=False).tolist() == [True, False]  # as in mmcv
    assert _rotated.keep(apart, 0.0, strict=True).tolist() == [True, True]


def test_nms_of_few_empty_and_nan_boxes(path: str) -> None:
    one = torch.tensor([[1., 1, 2, 2, 0]])
    assert ops.nms_rotated(one, torch.ones(1), 0.5)[1].tolist() == [0]
    assert nms_rotated.nms_rotated(one[:0], torch.zeros(0), None, None, None, 0.5, 0).tolist() == []
    nan = torch.tensor([[1., 1, 2, 2, 0], [1, 1, 2, float('nan'), 0], [1, 1, 0, 0, 0], [1, 1, 2, 2, 0]])
    scores = torch.tensor([0.5, 0.9, 0.8, float('nan')])
    assert ops.nms_rotated(nan, scores, 0.5)[1].tolist() == [3, 1, 2]  # NaN scores first; NaN and empty boxes stay


def test_labels_change_nothing_but_batched_nms_keeps_classes_apart(path: str) -> None:
    boxes, scores, labels = make(60, 15, torch.float32), torch.rand(60), torch.arange(60) % 3
    kept = ops.nms_rotated(boxes, scores, 0.2)[1]
    assert torch.equal(ops.nms_rotated(boxes, scores, 0.2, labels=labels)[1], kept)
    assert torch.equal(ops.nms_quadri(quads(boxes), scores, 0.2, labels=labels)[1], kept)
    config = {'type': 'nms_rotated', 'iou_threshold': 0.2}
    batched = ops.batched_nms(boxes, scores, labels, config)[1]
    alone = [(labels == k).nonzero()[:, 0] for k in range(3)]
    alone = [own[ops.nms_rotated(boxes[own], scores[own], 0.2)[1]] for own in alone]
    assert sorted(batched.tolist()) == sorted(torch.cat(alone).tolist())


@pytest.mark.parametrize('call, words', [
    (lambda: box_iou_rotated.box_iou_rotated(torch.ones(2, 4), torch.ones(2, 5), torch.ones(4), 0, False),
     ['box_iou_rotated:', '(N, 5)', '(2, 4)']),
    (lambda: box_iou_rotated.box_iou_quadri(torch.ones(2, 8), torch.ones(2, 5), torch.ones(4), 0, False),
     ['box_iou_quadri:', '(N, 8)', '(2, 5)']),
    (lambda: box_iou_rotated.box_iou_rotated(torch.ones(2, 5), torch.ones(3, 5), torch.ones(2), 0, True),
     ['aligned=True', '2 and 3']),
    (lambda: nms_rotated.nms_rotated(torch.ones(2, 4), torch.ones(2), None, None, None, 0.5, 0),
     ['nms_rotated:', '(N, 5)', '(2, 4)']),
    (lambda: nms_rotated.nms_quadri(torch.ones(2, 8), torch.ones(3), None, None, 0.5, 0), ['nms_quadri:', '(3,)']),
])
def test_wrong_shapes_are_named(call: callable, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words)
