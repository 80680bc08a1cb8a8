"""NMS, soft-NMS and NMS with groups against loops and each other; mmcv's wrappers on top of them."""

import multiprocessing

import numpy as np
import pytest
import torch
from mmcv import ops
from torch import Tensor

from mmpapers.ops import nms

pytestmark = pytest.mark.core


def make(n: int, ties: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crowded boxes, some without area; with ``ties`` few scores and integer corners."""
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, n, 2, generator=generator) * 60
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(n, generator=generator)
    boxes[::9, 2:] = boxes[::9, :2]
    return (boxes.round(), (scores * 4).round() / 4) if ties else (boxes, scores)


def iou(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    """IoU of two boxes in their own precision."""
    w, h = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + offset, 0) for k in (0, 1))
    area = sum((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)) - w * h
    return w * h / area if area else float('nan')


def loop(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    """Greedy NMS by definition; of equal scores the earlier wins."""
    boxes = boxes.double().numpy()
    keep = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if not any(iou(boxes[k], boxes[i], offset) > threshold for k in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nms_is_greedy_by_stable_score(path: str, dtype: torch.dtype, offset: int, ties: bool) -> None:
    boxes, scores = make(60, ties)
    for threshold in (0.0, 0.33, 0.7):
        kept = nms.nms(boxes.to(dtype), scores.to(dtype), threshold, offset)
        assert kept.dtype == torch.int64
        assert kept.tolist() == loop(boxes.to(dtype), scores, threshold, offset)


@pytest.mark.parametrize('block', [1, 7, 64, 4096])
def test_blocks_of_the_torch_path_do_not_show(block: int) -> None:
    boxes, scores = make(300)
    ranked = boxes[scores.argsort(descending=True)]
    columns = ranked.T.contiguous().numpy()
    expected = nms._keep_numba(*columns, np.float32(0.4), np.float32(0))
    assert np.array_equal(nms._keep_torch(ranked, 0.4, 0, block).numpy(), expected)


def test_no_boxes_nan_scores_and_nan_boxes(path: str) -> None:
    assert nms.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, 0).tolist() == []
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, float('nan'), 10, 10]])
    scores = torch.tensor([0.5, float('nan'), 0.9, 0.1])
    assert nms.nms(boxes, scores, 0.5, 0).tolist() == [1, 2, 3]  # NaN first, suppresses 0; a NaN box is left alone


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_compared_in_float32(path: str, dtype: torch.dtype) -> None:
    boxes, scores = make(80)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    assert nms.nms(boxes, scores, 0.5, 0).tolist() == nms.nms(boxes.float(), scores.float(), 0.5, 0).tolist()
    dets = torch.zeros(80, 5, dtype=dtype)
    kept = nms.softnms(boxes, scores, dets, 0.3, 0.5, 0.01, 1, 0)
    assert torch.equal(dets[:len(kept), :4], boxes[kept])


def test_softnms_writes_dets_and_orders_by_new_score() -> None:
    boxes, scores = make(100)
    boxes[:, 2:] += 1
    for method in (0, 1, 2):
        dets = torch.full((100, 5), -7.0)
        kept = nms.softnms(boxes, scores, dets, 0.3, 0.5, 0.05, method, 0)
        assert torch.equal(dets[:len(kept), :4], boxes[kept])
        assert (dets[:len(kept), 4].diff() <= 0).all()
        assert (dets[:len(kept), 4] <= scores[kept]).all()
        assert (dets[len(kept):] == -7).all()
    assert nms.softnms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 5), 0.3, 0.5, 0.05, 1, 0).tolist() == []


def test_softnms_decays_by_its_three_formulas() -> None:
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 5]], dtype=torch.float64)  # IoU 0.5
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64)
    for method, expected in ((0, 0.0), (1, 0.8 * 0.5), (2, 0.8 * np.exp(-0.5**2 / 0.4))):
        dets = torch.zeros(2, 5, dtype=torch.float64)
        nms.softnms(boxes, scores, dets, 0.3, 0.4, 0.0, method, 0)
        assert dets[1, 4].item() == pytest.approx(expected, abs=1e-12)


def test_hard_softnms_keeps_what_nms_keeps() -> None:
    boxes, scores = make(200)
    kept = nms.softnms(boxes, scores, torch.zeros(200, 5), 0.4, 0.5, 1e-6, 0, 0)
    assert kept.tolist() == nms.nms(boxes, scores, 0.4, 0).tolist()


@pytest.mark.parametrize('ties', [False, True])
def test_nms_match_groups_by_the_first_box_that_suppresses(ties: bool) -> None:
    boxes, scores = make(80, ties)
    groups, free = [], sorted(range(80), key=lambda i: -scores[i])
    while free:
        head, *rest = free
        taken = [i for i in rest if iou(boxes[head].tolist(), boxes[i].tolist(), 0) >= 0.4]
        groups.append([head, *taken])
        free = [i for i in rest if i not in taken]
    dets = torch.cat([boxes, scores[:, None]], 1)
    assert nms.nms_match(dets, 0.4) == groups
    assert [g.tolist() for g in ops.nms_match(dets, 0.4)] == groups
    assert nms.nms_match(torch.zeros(0, 5), 0.4) == []


def test_batched_nms_splits_large_inputs_without_a_trace(path: str) -> None:
    boxes, scores = make(400)
    classes = torch.arange(400) % 5
    whole, kept = ops.batched_nms(boxes, scores, classes, {'type': 'nms', 'iou_threshold': 0.3})
    split, split_kept = ops.batched_nms(boxes, scores, classes, {'type': 'nms', 'iou_threshold': 0.3, 'split_thr': 10})
    assert torch.equal(kept, split_kept) and torch.equal(whole, split)
    per_class = [c.nonzero()[:, 0][nms.nms(boxes[c], scores[c], 0.3, 0)] for c in (classes == k for k in range(5))]
    assert sorted(kept.tolist()) == sorted(torch.cat(per_class).tolist())
    for split_thr in (10, 10000):
        few = ops.batched_nms(boxes, scores, classes,
                              {'type': 'nms', 'iou_threshold': 0.3, 'max_num': 7, 'split_thr': split_thr})[1]
        assert torch.equal(few, kept[:7])
    agnostic = ops.batched_nms(boxes, scores, classes, {'iou_threshold': 0.3, 'class_agnostic': True})[1]
    assert torch.equal(agnostic, nms.nms(boxes, scores, 0.3, 0))
    assert torch.equal(ops.batched_nms(boxes, scores, classes, None)[1], scores.argsort(descending=True))


def test_batched_soft_nms_keeps_classes_apart() -> None:
    boxes, scores = make(50)
    classes = torch.arange(50) % 2
    dets, kept = ops.batched_nms(boxes, scores, classes, {'type': 'soft_nms', 'iou_threshold': 0.3, 'min_score': 0.05})
    for k in (0, 1):
        own = (classes == k).nonzero()[:, 0]
        alone, alone_kept = ops.soft_nms(boxes[own], scores[own], 0.3, min_score=0.05)
        mine = classes[kept] == k
        assert torch.equal(kept[mine], own[alone_kept])
        torch.testing.assert_close(dets[mine, 4], alone[:, 4], atol=1e-5, rtol=0)


def test_score_threshold_of_the_wrapper() -> None:
    boxes, scores = make(50)
    dets, kept = ops.nms(boxes, scores, 0.5, score_threshold=0.4)
    assert (scores[kept] > 0.4).all()
    assert torch.equal(dets[:, 4], scores[kept])
    assert kept.tolist() == [i for i in loop(boxes, scores, 0.5, 0) if scores[i] > 0.4]


def _worker(queue: multiprocessing.SimpleQueue) -> None:
    """Use both kinds of kernel: on one thread, as data loader workers do, and on two."""
    torch.set_num_threads(1)
    torch.get_num_threads = lambda: 2  # for our threads only: torch's own hang in a forked process
    boxes, scores = make(50)
    rois = torch.cat([torch.zeros(50, 1), boxes], 1)
    queue.put((nms.nms(boxes, scores, 0.5, 0).tolist(), float(ops.roi_align(torch.ones(1, 8, 70, 70), rois, 2).sum())))


def test_kernels_work_in_a_process_forked_after_use(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context('fork')
    results = [context.SimpleQueue(), context.SimpleQueue()]
    monkeypatch.setattr(torch, 'get_num_threads', torch.get_num_threads)
    _worker(results[0])
    process = context.Process(target=_worker, args=(results[1],), daemon=True)
    process.start()
    process.join(60)
    process.kill()
    torch.set_num_threads(2)
    assert process.exitcode == 0
    assert results[1].get() == results[0].get()


@pytest.mark.parametrize('call, words', [
    (lambda: nms.nms(torch.zeros(3, 5), torch.zeros(3), 0.5, 0), ['nms:', '(N, 4)', '(3, 5)', 'nms_rotated']),
    (lambda: nms.nms(torch.zeros(3, 4), torch.zeros(2), 0.5, 0), ['nms:', '(3, 4)', '(2,)']),
    (lambda: nms.softnms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 4), 0.5, 0.5, 0.0, 0, 0),
     ['softnms:', '(3, 5)', '(3, 4)']),
    (lambda: nms.nms_match(torch.zeros(3, 4), 0.5), ['nms_match:', '(N, 5)', '(3, 4)']),
])
def test_wrong_shapes_are_named(call: callable, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words)
