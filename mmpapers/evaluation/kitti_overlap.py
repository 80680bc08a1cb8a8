"""Kernels of KITTI's evaluation: overlaps of boxes, frame by frame, and the assignment of detections to objects.

Rotated boxes lie in the camera's ground plane: ``(x, z, length, width, yaw)``, metres and radians, with a positive yaw
turning x towards -z. Areas are computed in float64 by clipping one rectangle in the frame of the other.
"""

import numpy as np

from ..ops._numba import jit, parallel

_FREE, _IGNORED = 0, 1  # states of a box besides -1, which leaves it out


@jit
def _clip(x: np.ndarray, y: np.ndarray, n: int, sign: float, limit: float, out_x: np.ndarray, out_y: np.ndarray) -> int:
    """Keep the part of a convex polygon with ``sign * x <= limit``; returns its number of corners."""
    count = 0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        a, b = sign * x[i] - limit, sign * x[j] - limit
        if a <= 0:
            out_x[count], out_y[count] = x[i], y[i]
            count += 1
        if (a < 0 < b) or (b < 0 < a):
            t = a / (a - b)
            out_x[count], out_y[count] = x[i] + t * (x[j] - x[i]), y[i] + t * (y[j] - y[i])
            count += 1
    return count


@jit
def _shared_area(p: np.ndarray, q: np.ndarray, work: np.ndarray) -> float:
    """Area that two rotated rectangles (5,) share; ``work`` (4, 12) is scratch memory."""
    dx, dy = p[0] - q[0], p[1] - q[1]
    reach = 0.5 * (np.sqrt(p[2] * p[2] + p[3] * p[3]) + np.sqrt(q[2] * q[2] + q[3] * q[3]))
    if not dx * dx + dy * dy < reach * reach:
        return 0.0
    cos_q, sin_q = np.cos(q[4]), np.sin(q[4])
    centre_x, centre_y = cos_q * dx - sin_q * dy, sin_q * dx + cos_q * dy
    cos_d, sin_d = np.cos(p[4] - q[4]), np.sin(p[4] - q[4])
    x, y, x2, y2 = work[0], work[1], work[2], work[3]
    for i in range(4):
        u = 0.5 * p[2] if i == 1 or i == 2 else -0.5 * p[2]
        v = 0.5 * p[3] if i >= 2 else -0.5 * p[3]
        x[i], y[i] = centre_x + cos_d * u + sin_d * v, centre_y - sin_d * u + cos_d * v
    n = _clip(x, y, 4, 1.0, 0.5 * q[2], x2, y2)
    n = _clip(x2, y2, n, -1.0, 0.5 * q[2], x, y)
    n = _clip(y, x, n, 1.0, 0.5 * q[3], y2, x2)
    n = _clip(y2, x2, n, -1.0, 0.5 * q[3], y, x)
    area = 0.0
    for i in range(1, n - 1):
        area += (x[i] - x[0]) * (y[i + 1] - y[0]) - (x[i + 1] - x[0]) * (y[i] - y[0])
    return abs(area) * 0.5


@jit
def _rotated(start: int, stop: int, boxes: np.ndarray, queries: np.ndarray, criterion: int, out: np.ndarray) -> None:
    """Fill rows ``start`` to ``stop`` of :func:`rotated_overlap`."""
    work = np.empty((4, 12))
    for i in range(start, stop):
        for j in range(queries.shape[0]):
            shared = _shared_area(boxes[i], queries[j], work)
            if shared > 0:
                area, other = boxes[i, 2] * boxes[i, 3], queries[j, 2] * queries[j, 3]
                out[i, j] = shared / (area + other - shared if criterion == -1 else other if criterion == 0 else
                                      area if criterion == 1 else 1.0)


def rotated_overlap(boxes: np.ndarray, queries: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Overlap of every pair of rotated boxes.

    Args:
        boxes: (N, 5) x, z, length, width, yaw.
        queries: (K, 5) likewise.
        criterion: What the shared area is divided by: -1 the union, 0 the query's area, 1 the box's area, else 1.

    Returns:
        (N, K) float64; 0 for boxes without area.
    """
    boxes, queries = (np.ascontiguousarray(b, np.float64).reshape(-1, 5) for b in (boxes, queries))
    out = np.zeros((len(boxes), len(queries)))
    parallel(_rotated, len(boxes), boxes, queries, criterion, out, grain=64)
    return out


@jit
def _frames(start: int, stop: int, dt_at: np.ndarray, gt_at: np.ndarray, pair_at: np.ndarray, dt_image: np.ndarray,
            gt_image: np.ndarray, dt_box: np.ndarray, gt_box: np.ndarray, dontcare: np.ndarray, out: np.ndarray,
            covered: np.ndarray) -> None:
    """Fill the pairs of frames ``start`` to ``stop``; see :func:`frame_overlaps`."""
    work = np.empty((4, 12))
    p, q = np.empty(5), np.empty(5)
    for f in range(start, stop):
        pair = pair_at[f]
        for i in range(dt_at[f], dt_at[f + 1]):
            a, b = dt_image[i], dt_box[i]
            p[0], p[1], p[2], p[3], p[4] = b[0], b[2], b[3], b[5], b[6]
            image_area = (a[2] - a[0]) * (a[3] - a[1])
            for j in range(gt_at[f], gt_at[f + 1]):
                c, d = gt_image[j], gt_box[j]
                wide, high = min(a[2], c[2]) - max(a[0], c[0]), min(a[3], c[3]) - max(a[1], c[1])
                if wide > 0 and high > 0:
                    out[0, pair] = wide * high / (image_area + (c[2] - c[0]) * (c[3] - c[1]) - wide * high)
                    if dontcare[j]:
                        covered[i] = max(covered[i], wide * high / image_area)
                q[0], q[1], q[2], q[3], q[4] = d[0], d[2], d[3], d[5], d[6]
                shared = _shared_area(p, q, work)
                if shared > 0:
                    out[1, pair] = shared / (p[2] * p[3] + q[2] * q[3] - shared)
                    shared *= max(min(b[1], d[1]) - max(b[1] - b[4], d[1] - d[4]), 0.0)
                    out[2, pair] = shared / (p[2] * p[3] * b[4] + q[2] * q[3] * d[4] - shared)
                pair += 1


def frame_overlaps(dt_at: np.ndarray, gt_at: np.ndarray, dt_image: np.ndarray, gt_image: np.ndarray, dt_box: np.ndarray,
                   gt_box: np.ndarray, dontcare: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of each detection with each object of its frame.

    Args:
        dt_at: (F + 1,) where the detections of each of F frames begin.
        gt_at: (F + 1,) likewise for objects.
        dt_image: (D, 4) left, top, right, bottom, pixels.
        gt_image: (G, 4) likewise.
        dt_box: (D, 7) x, y (of the bottom), z, length, height, width, yaw in camera coordinates, metres, radians.
        gt_box: (G, 7) likewise.
        dontcare: (G,) whether an object is an image region without labels.

    Returns:
        IoU (3, P) in the image, seen from above and in space, of pairs in the order frame, detection, object; (F + 1,)
        where the pairs of each frame begin; (D,) largest share of a detection's image box within one such region.
    """
    pair_at = np.concatenate(([0], np.cumsum(np.diff(dt_at) * np.diff(gt_at))))
    out, covered = np.zeros((3, pair_at[-1])), np.zeros(len(dt_image))
    parallel(_frames, len(dt_at) - 1, dt_at, gt_at, pair_at, dt_image, gt_image, dt_box, gt_box, dontcare, out, covered,
             grain=32)
    return out, pair_at, covered


@jit
def _found(start: int, stop: int, dt_at: np.ndarray, gt_at: np.ndarray, pair_at: np.ndarray, iou: np.ndarray,
           dt_state: np.ndarray, gt_state: np.ndarray, score: np.ndarray, least: float, out: np.ndarray) -> None:
    """Write to ``out`` (G,) the score with which each valid object is found; objects take the best-scored detection."""
    for f in range(start, stop):
        first, count = dt_at[f], gt_at[f + 1] - gt_at[f]
        taken = np.zeros(dt_at[f + 1] - first, np.bool_)
        for j in range(count):
            state = gt_state[gt_at[f] + j]
            if state == -1:
                continue
            best = -1
            for i in range(len(taken)):
                if dt_state[first + i] != -1 and not taken[i] and iou[pair_at[f] + i * count + j] > least \
                        and (best == -1 or score[first + i] > score[first + best]):
                    best = i
            if best != -1:
                taken[best] = True
                if state == _FREE and dt_state[first + best] == _FREE:
                    out[gt_at[f] + j] = score[first + best]


@jit
def _counted(start: int, stop: int, dt_at: np.ndarray, gt_at: np.ndarray, pair_at: np.ndarray, iou: np.ndarray,
             dt_state: np.ndarray, gt_state: np.ndarray, score: np.ndarray, least: float, thresholds: np.ndarray,
             dt_alpha: np.ndarray, gt_alpha: np.ndarray, harmless: np.ndarray, out: np.ndarray) -> None:
    """Write to ``out`` (F, T, 3) true and false positives and orientation similarity at T score thresholds.

    Objects take the detection of largest overlap; an unmatched one that is ``harmless`` (D,) is no false positive.
    """
    for f in range(start, stop):
        first, count = dt_at[f], gt_at[f + 1] - gt_at[f]
        taken = np.empty(dt_at[f + 1] - first, np.bool_)
        for t in range(len(thresholds)):
            taken[:] = False
            for j in range(count):
                state = gt_state[gt_at[f] + j]
                if state == -1:
                    continue
                best, overlap, spare = -1, 0.0, -1
                for i in range(len(taken)):
                    if dt_state[first + i] == -1 or taken[i] or score[first + i] < thresholds[t]:
                        continue
                    value = iou[pair_at[f] + i * count + j]
                    if value <= least:
                        continue
                    if dt_state[first + i] == _FREE:
                        if best == -1 or value > overlap:
                            best, overlap = i, value
                    elif spare == -1:
                        spare = i
                if best != -1:
                    taken[best] = True
                    if state == _FREE:
                        out[f, t, 0] += 1
                        out[f, t, 2] += (1 + np.cos(gt_alpha[gt_at[f] + j] - dt_alpha[first + best])) / 2
                elif spare != -1:
                    taken[spare] = True
            for i in range(len(taken)):
                if not taken[i] and dt_state[first + i] == _FREE and score[first + i] >= thresholds[t] \
                        and not harmless[first + i]:
                    out[f, t, 1] += 1
