"""Non-maximum suppression: hard, soft and with groups.

Indices, their order and the written scores are those of mmcv 2.1.0's CPU kernels. NaN scores rank first, as
``torch.sort`` ranks them. Equal scores keep the order of the input; in mmcv that depends on the processor. The IoU of
two boxes without area, or with a NaN coordinate, is NaN: neither suppresses the other, and Gaussian soft-NMS passes
the NaN on to the score.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, widen


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the best box of each group that overlaps by more than a threshold.

    Args:
        boxes: (N, 4), x1, y1, x2, y2, of any device.
        scores: (N,).
        iou_threshold: Boxes with IoU > this are suppressed.
        offset: 0, or 1 where a width is ``x2 - x1 + 1``.

    Returns:
        (K,) int64 indices of the kept boxes by descending score, on the device of ``boxes``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('nms', boxes, scores)
    order = scores.detach().sort(dim=0, descending=True, stable=True)[1]
    ranked = widen(boxes)[order]
    if not _numba.native(boxes):
        return order[_keep_torch(ranked, iou_threshold, offset)]
    columns = array(ranked.T)
    real = columns.dtype.type
    keep = _keep_numba(*columns, real(iou_threshold), real(offset))
    return order[torch.from_numpy(keep)]


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float,
            method: int, offset: int) -> Tensor:
    """Lower the scores of overlapping boxes instead of dropping them (Bodla et al., ICCV 2017).

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5), written in place: boxes with their new scores in the first K rows.
        iou_threshold: Methods 0 and 1 touch boxes with IoU >= this.
        sigma: Width of method 2.
        min_score: Boxes whose score falls below are dropped.
        method: 0 hard, 1 linear ``1 - IoU``, 2 Gaussian ``exp(-IoU^2 / sigma)``.
        offset: 0, or 1 where a width is ``x2 - x1 + 1``.

    Returns:
        (K,) int64 indices in the order of selection, on the device of ``boxes``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('softnms', boxes, scores)
    if dets.shape != (len(boxes), 5):
        raise ValueError(f'softnms: dets must be ({len(boxes)}, 5) to take the result, but is {tuple(dets.shape)}')
    columns = array(torch.cat([boxes, scores[:, None]], 1).cpu().T).copy()
    real = columns.dtype.type
    result = np.zeros((len(boxes), 5), columns.dtype)
    keep = _soft_numba(*columns, result, real(iou_threshold), real(sigma), real(min_score), method, real(offset),
                       real(1))
    dets[:len(keep)].copy_(torch.from_numpy(result[:len(keep)]))
    return torch.from_numpy(keep).to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each kept box with the boxes that it suppresses.

    Args:
        dets: (N, 5), x1, y1, x2, y2, score.
        iou_threshold: Boxes with IoU >= this are suppressed.

    Returns:
        One list per kept box, best first: its index, then those of its suppressed boxes by descending score.

    Raises:
        ValueError: If ``dets`` is not (N, 5).
    """
    if dets.ndim != 2 or dets.shape[1] != 5:
        raise ValueError(f'nms_match: dets must be (N, 5) = (x1, y1, x2, y2, score), but is {tuple(dets.shape)}')
    dets = dets.detach().cpu()
    order = dets[:, 4].sort(dim=0, descending=True, stable=True)[1]
    columns = array(dets[order, :4].T)
    owner = _owner_numba(*columns, columns.dtype.type(iou_threshold))
    members = np.argsort(owner, kind='stable')
    starts = np.flatnonzero(np.diff(owner[members], prepend=-1))
    return [group.tolist() for group in np.split(order.numpy()[members], starts[1:])] if len(dets) else []


def _check(op: str, boxes: Tensor, scores: Tensor) -> None:
    """Refuse shapes that are not (N, 4) and (N,); an empty ``boxes`` may have any shape."""
    if boxes.numel() + scores.numel() and (boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]):
        raise ValueError(f'{op}: needs boxes (N, 4) and scores (N,), but got {tuple(boxes.shape)} and '
                         f'{tuple(scores.shape)}; rotated boxes (N, 5) go to nms_rotated')


# Loops run over slices, whose indices LLVM knows to be positive: only so are they vectorised (10x).


@jit
def _overlap(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, offset):
    """IoU of boxes a and b."""
    zero = offset - offset
    w = (bx2 if bx2 < ax2 else ax2) - (bx1 if ax1 < bx1 else ax1) + offset
    h = (by2 if by2 < ay2 else ay2) - (by1 if ay1 < by1 else ay1) + offset
    inter = (w if zero < w else zero) * (h if zero < h else zero)
    area = (ax2 - ax1 + offset) * (ay2 - ay1 + offset)
    return inter / (area + (bx2 - bx1 + offset) * (by2 - by1 + offset) - inter)


@jit
def _keep_numba(x1, y1, x2, y2, threshold, offset):
    """Mask of the kept ones among boxes by descending score."""
    n = len(x1)
    drop = np.zeros(n, np.int32)
    for i in range(n):
        if drop[i]:
            continue
        a, b, c, d = x1[i], y1[i], x2[i], y2[i]
        p, q, r, s, rest = x1[i + 1:], y1[i + 1:], x2[i + 1:], y2[i + 1:], drop[i + 1:]
        for j in range(n - i - 1):
            overlap = _overlap(a, b, c, d, p[j], q[j], r[j], s[j], offset)
            rest[j] = np.int32(1) if overlap > threshold else rest[j]
    return drop == 0


@jit
def _owner_numba(x1, y1, x2, y2, threshold):
    """Rank of the box that suppresses each box (its own if kept), among boxes by descending score."""
    n = len(x1)
    none = np.int32(n)
    owner = np.full(n, none)
    for i in range(n):
        if owner[i] != none:
            continue
        rank = owner[i] = np.int32(i)
        a, b, c, d = x1[i], y1[i], x2[i], y2[i]
        p, q, r, s, rest = x1[i + 1:], y1[i + 1:], x2[i + 1:], y2[i + 1:], owner[i + 1:]
        for j in range(n - i - 1):
            overlap = _overlap(a, b, c, d, p[j], q[j], r[j], s[j], threshold - threshold)
            hit = rank if overlap >= threshold else none
            rest[j] = hit if rest[j] == none else rest[j]
    return owner


@jit
def _soft_numba(x1, y1, x2, y2, score, dets, threshold, sigma, min_score, method, offset, one):
    """Select, decay and drop in place; returns the indices of what is left."""
    n = len(x1)
    index = np.arange(n)
    columns = (x1, y1, x2, y2, score)
    i = 0
    while i < n:
        best = i
        for j in range(i + 1, n):
            if score[best] < score[j]:
                best = j
        for k, column in enumerate(columns):
            dets[i, k] = column[best]
            column[best], column[i] = column[i], column[best]
        index[best], index[i] = index[i], index[best]
        a, b, c, d = x1[i], y1[i], x2[i], y2[i]
        p, q, r, s, rest = x1[i + 1:], y1[i + 1:], x2[i + 1:], y2[i + 1:], score[i + 1:]
        for j in range(n - i - 1):
            overlap = _overlap(a, b, c, d, p[j], q[j], r[j], s[j], offset)
            if method == 2:
                rest[j] *= np.exp(-(overlap * overlap) / sigma)
            else:
                weight = one - overlap if method == 1 else one - one
                rest[j] *= weight if overlap >= threshold else one
        j = i + 1
        while j < n:
            if score[j] < min_score:
                n -= 1
                for column in columns:
                    column[j] = column[n]
                index[j] = index[n]
            else:
                j += 1
        i += 1
    return index[:n]


def _keep_torch(boxes: Tensor, threshold: float, offset: int, block: int = 2048) -> Tensor:
    """Mask of the kept ones among boxes by descending score, for any device."""
    return greedy_torch(boxes, lambda a, b: _overlaps_torch(a, b, threshold, offset), block)


def greedy_torch(boxes: Tensor, beats: Callable[[Tensor, Tensor], Tensor], block: int = 2048) -> Tensor:
    """Mask of the kept ones among boxes by descending score, with few steps for many boxes.

    A block of boxes is first cut by the boxes kept before it. Then "keep what no kept better box overlaps" is repeated
    until nothing changes, which is the greedy solution: each round settles at least one more rank.

    Args:
        boxes: (N, D).
        beats: Which of (K, D) better boxes overlap too much with which of (L, D) others, (K, L).
        block: Boxes at a time.
    """
    keep = boxes.new_ones(len(boxes), dtype=torch.bool)
    for start in range(0, len(boxes), block):
        part = boxes[start:start + block]
        alive = ~beats(boxes[:start][keep[:start]], part).any(0)
        better = beats(part, part).triu(1)
        mask = alive
        while True:
            settled = alive & ~(better & mask[:, None]).any(0)
            if bool((settled == mask).all()):
                break
            mask = settled
        keep[start:start + block] = mask
    return keep


def _overlaps_torch(a: Tensor, b: Tensor, threshold: float, offset: int) -> Tensor:
    """Which pairs of (N, 4) and (M, 4) boxes have an IoU above the threshold, (N, M)."""
    area_a, area_b = ((t[:, 2] - t[:, 0] + offset) * (t[:, 3] - t[:, 1] + offset) for t in (a, b))
    size = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + offset
    inter = size.clamp_(min=0).prod(-1)
    return inter / (area_a[:, None] + area_b - inter) > threshold
