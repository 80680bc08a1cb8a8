"""Overlap of rotated rectangles and of quadrilaterals: what rotated IoU, rotated NMS and 3D NMS share.

The area that rectangle a shares with rectangle b is the integral of x dy along the border of a, seen in b's frame, with
x and y clamped to b. That needs no case distinction and no sorting of corners, so that equal, touching and nested
rectangles are as exact as any others. Pairs that circles around them or a side of one keep apart share exactly 0.

Quadrilaterals follow mmcv 2.1.0, whose value is the area of the convex hull of the points where edges cross and of the
corners whose projections on the first and the last side of the other quadrilateral fall on these sides. That is the
shared area for rectangles only. They are computed on the CPU, whatever the device.

Areas are computed in float64, on MPS, which has none, in float32.
"""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, parallel, widen
from .nms import greedy_torch

_SMALLEST = 1e-14  # boxes below this area overlap nothing, as in mmcv
_PAIRS = 1 << 20  # pairs at a time in the torch path; bounds its buffers


class Mode(IntEnum):
    """What is computed of the area that two boxes share."""
    IOU = 0
    IOF = 1
    AREA = 2


def overlaps(a: Tensor, b: Tensor, mode: Mode, aligned: bool = False) -> Tensor:
    """Compare every box with every other, or the i-th with the i-th.

    Args:
        a: (N, 5), centre x and y, sizes, angle in radians; or (N, 8), corners x1, y1, ..., x4, y4.
        b: (M, 5) or (M, 8).
        mode: Intersection over union or over the area of ``a``, or the intersection itself.
        aligned: Compare boxes of the same index only.

    Returns:
        (N, M), or (N,) with ``aligned``, in float32 at least.
    """
    a, b = widen(a), widen(b)
    if a.shape[1] == 5 and not _numba.native(a):
        return _overlaps_torch(_rows(a), _rows(b), mode, aligned=aligned).to(a.dtype)
    out = torch.empty(len(a), 1 if aligned else len(b), dtype=a.dtype)
    parallel(_pairs_numba, len(a), _columns(a), _columns(b), int(mode), -np.inf, aligned, out.numpy(),
             grain=64)
    return (out[:, 0] if aligned else out).to(a.device)


def keep(boxes: Tensor, threshold: float, strict: bool, least_union: float = -np.inf) -> Tensor:
    """Greedy NMS of boxes that are sorted by descending score.

    Args:
        boxes: (N, 5) or (N, 8), as in :func:`overlaps`.
        threshold: A box is dropped for its IoU with a better one that is kept.
        strict: Whether an IoU of just the threshold is small enough.
        least_union: Denominator of the IoU at least.

    Returns:
        (N,) bool, on the device of ``boxes``.
    """
    boxes = widen(boxes)
    threshold = float(np.float32(threshold))
    if boxes.shape[1] == 5 and not _numba.native(boxes):
        compare = torch.gt if strict else torch.ge
        return greedy_torch(_rows(boxes), lambda p, q: compare(
            _overlaps_torch(p, q, Mode.IOU, least_union).to(boxes.dtype), threshold))
    real = np.float32 if boxes.dtype == torch.float32 else np.float64
    kept = _keep_numba(_columns(boxes), real(threshold), strict, least_union)
    return torch.from_numpy(kept).to(boxes.device)


def _columns(boxes: Tensor) -> np.ndarray:
    """What the kernels read of each box: (8, N) of rectangles, (9, N) of quadrilaterals."""
    boxes = boxes.detach().cpu()
    if boxes.shape[1] == 5:
        return array(_rows(boxes).T)
    corners = boxes.double().view(-1, 4, 2)
    area = _cross(corners[:, 1:3] - corners[:, :1], corners[:, 2:] - corners[:, :1]).abs().sum(1, keepdim=True) / 2
    return array(torch.cat([corners.flatten(1), area], 1).T)


def _rows(boxes: Tensor) -> Tensor:
    """Centre, half sizes, cosine, sine, radius and area of rectangles, (N, 8)."""
    boxes = boxes.detach() if boxes.device.type == 'mps' else boxes.detach().double()
    half = boxes[:, 2:4].abs() / 2
    x, y, w, h, angle = boxes.unbind(1)
    return torch.stack([x, y, *half.unbind(1), angle.cos(), angle.sin(), half.norm(dim=1), w * h], 1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _overlaps_torch(a: Tensor, b: Tensor, mode: Mode, least_union: float = -np.inf,
                    aligned: bool = False) -> Tensor:
    """:func:`overlaps` of the rows of rectangles, for any device."""
    if not aligned:
        step = max(1, _PAIRS // max(1, len(b)))
        parts = [_ratio_torch(part[:, None], b[None], mode, least_union) for part in a.split(step)]
        return torch.cat(parts) if parts else a.new_zeros(0, len(b))
    return _ratio_torch(a, b, mode, least_union)


def _ratio_torch(a: Tensor, b: Tensor, mode: Mode, least_union: float) -> Tensor:
    """Shared area of rows (..., 8) that broadcast, or its share."""
    ax, ay, aw, ah, a_cos, a_sin, _, a_area = a.unbind(-1)
    bx, by, bw, bh, b_cos, b_sin, _, b_area = b.unbind(-1)
    dx, dy = ax - bx, ay - by
    x, y = dx * b_cos + dy * b_sin, dy * b_cos - dx * b_sin
    cos, sin = a_cos * b_cos + a_sin * b_sin, a_sin * b_cos - a_cos * b_sin
    ux, uy, vx, vy = aw * cos, aw * sin, -ah * sin, ah * cos
    ax, ay = dx * a_cos + dy * a_sin, dy * a_cos - dx * a_sin
    apart = ((x.abs() >= bw + ux.abs() + vx.abs()) | (y.abs() >= bh + uy.abs() + vy.abs())
             | (ax.abs() >= aw + (bw * cos).abs() + (bh * sin).abs())
             | (ay.abs() >= ah + (bw * sin).abs() + (bh * cos).abs()))
    corners = [(x - ux - vx, y - uy - vy), (x + ux - vx, y + uy - vy), (x + ux + vx, y + uy + vy),
               (x - ux + vx, y - uy + vy)]
    area = sum(_along_torch(*corners[k - 1], *corners[k], bw, bh) for k in range(4))
    small = torch.minimum(a_area, b_area) < _SMALLEST
    area = torch.where(apart | small | ~(area > 0), 0, area)
    if mode == Mode.AREA:
        return area
    whole = (a_area + b_area - area).clamp(min=least_union) if mode == Mode.IOU else a_area
    return torch.where(small, 0, area / whole)


def _along_torch(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, w: Tensor, h: Tensor) -> Tensor:
    """Integral of x dy along a segment, with x clamped to [-w, w] and y to [-h, h]."""
    low, high = torch.clamp(y0, -h, h), torch.clamp(y1, -h, h)
    slope = (x1 - x0) / torch.where(y1 == y0, 1, y1 - y0)
    a, b = x0 + (low - y0) * slope, x0 + (high - y0) * slope
    left, right = torch.clamp(a, -w, w), torch.clamp(b, -w, w)
    mean = ((right - left) * (left + right) / 2 + (left - a) * left + (b - right) * right) / (b - a)
    return (high - low) * torch.where(left == right, left, mean)


@jit
def _clamp(value, limit):
    return min(max(value, -limit), limit)


@jit
def _along(x0, y0, x1, y1, w, h):
    """Integral of x dy along a segment, with x clamped to [-w, w] and y to [-h, h]."""
    low, high = _clamp(y0, h), _clamp(y1, h)
    if low == high:
        return 0.0
    slope = (x1 - x0) / (y1 - y0)
    a, b = x0 + (low - y0) * slope, x0 + (high - y0) * slope
    left, right = _clamp(a, w), _clamp(b, w)
    if left == right:
        return (high - low) * left
    return (high - low) * ((right - left) * (left + right) / 2 + (left - a) * left + (b - right) * right) / (b - a)


@jit
def _apart(p, i, q, j):
    """Whether the circles around rectangles i of p and j of q keep them apart; False for quadrilaterals, and if NaN."""
    if len(p) != 8:
        return False
    dx, dy, reach = p[0, i] - q[0, j], p[1, i] - q[1, j], p[6, i] + q[6, j]
    return dx * dx + dy * dy > reach * reach


@jit
def _rectangles(p, i, q, j):
    """Area that rectangles i of p and j of q share."""
    dx, dy = p[0, i] - q[0, j], p[1, i] - q[1, j]
    a_cos, a_sin, cos, sin, w, h = p[4, i], p[5, i], q[4, j], q[5, j], q[2, j], q[3, j]
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    ax, ay = dx * a_cos + dy * a_sin, dy * a_cos - dx * a_sin
    cos, sin = a_cos * cos + a_sin * sin, a_sin * cos - a_cos * sin
    ux, uy, vx, vy = p[2, i] * cos, p[2, i] * sin, -p[3, i] * sin, p[3, i] * cos
    if (abs(x) >= w + abs(ux) + abs(vx) or abs(y) >= h + abs(uy) + abs(vy)
            or abs(ax) >= p[2, i] + abs(w * cos) + abs(h * sin) or abs(ay) >= p[3, i] + abs(w * sin) + abs(h * cos)):
        return 0.0  # a side of one separates them
    x0, y0, x1, y1 = x - ux - vx, y - uy - vy, x + ux - vx, y + uy - vy
    x2, y2, x3, y3 = x + ux + vx, y + uy + vy, x - ux + vx, y - uy + vy
    return (_along(x0, y0, x1, y1, w, h) + _along(x1, y1, x2, y2, w, h)
            + _along(x2, y2, x3, y3, w, h) + _along(x3, y3, x0, y0, w, h))


@jit
def _add_corners(p, i, q, j, cx, cy, points, count):
    """Append the corners of box i of p whose projections fall on the first and last side of box j of q; new count."""
    ux, uy, vx, vy = q[2, j] - q[0, j], q[3, j] - q[1, j], q[6, j] - q[0, j], q[7, j] - q[1, j]
    for k in range(0, 8, 2):
        x, y = p[k, i] - q[0, j], p[k + 1, i] - q[1, j]
        along, across = x * ux + y * uy, x * vx + y * vy
        if 0 <= along <= ux * ux + uy * uy and 0 <= across <= vx * vx + vy * vy:
            points[count, 0], points[count, 1] = p[k, i] - cx, p[k + 1, i] - cy
            count += 1
    return count


@jit
def _quadrilaterals(p, i, q, j, points, hull):
    """Area of the hull of crossings and corners of i of p and j of q; ``points`` and ``hull`` are scratch."""
    cx, cy = 0.0, 0.0
    for k in range(0, 8, 2):
        cx += (p[k, i] + q[k, j]) / 8
        cy += (p[k + 1, i] + q[k + 1, j]) / 8
    count = 0
    for k in range(0, 8, 2):
        ax, ay = p[k, i], p[k + 1, i]
        ux, uy = p[(k + 2) % 8, i] - ax, p[(k + 3) % 8, i] - ay
        for m in range(0, 8, 2):
            bx, by = q[m, j] - ax, q[m + 1, j] - ay
            vx, vy = q[(m + 2) % 8, j] - q[m, j], q[(m + 3) % 8, j] - q[m + 1, j]
            det = vx * uy - vy * ux
            if abs(det) > 1e-14:  # not parallel
                s, t = (vx * by - vy * bx) / det, (ux * by - uy * bx) / det
                if 0 <= s <= 1 and 0 <= t <= 1:
                    points[count, 0], points[count, 1] = ax + s * ux - cx, ay + s * uy - cy
                    count += 1
    count = _add_corners(p, i, q, j, cx, cy, points, count)
    count = _add_corners(q, j, p, i, cx, cy, points, count)
    return _hull_area(points, count, hull)


@jit
def _hull_area(points, count, hull):
    """Area of the convex hull (Andrew's monotone chain) of the first points, which are sorted in place."""
    if count <= 2:
        return 0.0
    for k in range(1, count):
        x, y, m = points[k, 0], points[k, 1], k
        while m > 0 and (points[m - 1, 0] > x or (points[m - 1, 0] == x and points[m - 1, 1] > y)):
            points[m, 0], points[m, 1] = points[m - 1, 0], points[m - 1, 1]
            m -= 1
        points[m, 0], points[m, 1] = x, y
    size, least = 0, 2
    for step in range(2 * count - 1):  # to the right below, then back above
        k = step if step < count else 2 * count - 2 - step
        while size >= least and ((hull[size - 1, 0] - hull[size - 2, 0]) * (points[k, 1] - hull[size - 2, 1])
                                 <= (hull[size - 1, 1] - hull[size - 2, 1]) * (points[k, 0] - hull[size - 2, 0])):
            size -= 1
        hull[size, 0], hull[size, 1] = points[k, 0], points[k, 1]
        size += 1
        if step == count - 1:
            least = size + 1
    area = 0.0
    for k in range(size - 1):  # the last point is the first
        area += hull[k, 0] * hull[k + 1, 1] - hull[k, 1] * hull[k + 1, 0]
    return area / 2


@jit
def _ratio(p, i, q, j, mode, least_union, points, hull):
    """Shared area of boxes i of p and j of q, or its share."""
    a, b = p[len(p) - 1, i], q[len(q) - 1, j]
    if a < _SMALLEST or b < _SMALLEST:
        return 0.0
    area = _rectangles(p, i, q, j) if len(p) == 8 else _quadrilaterals(p, i, q, j, points, hull)
    if not area > 0:  # NaN where a coordinate is
        area = 0.0
    if mode == 2:
        return area
    whole = a + b - area if mode == 0 else a
    return area / (least_union if whole < least_union else whole)


@jit
def _pairs_numba(start, stop, p, q, mode, least_union, aligned, out):
    """Rows ``start`` to ``stop`` of :func:`overlaps`; (N, 1) if aligned."""
    points, hull = np.empty((24, 2)), np.empty((49, 2))
    for i in range(start, stop):
        if aligned:
            out[i, 0] = _ratio(p, i, q, i, mode, least_union, points, hull)
            continue
        for j in range(q.shape[1]):
            out[i, j] = 0.0 if _apart(p, i, q, j) else _ratio(p, i, q, j, mode, least_union, points, hull)


@jit
def _keep_numba(rows, threshold, strict, least_union):
    """Mask of the kept ones; the IoU is rounded to the type of the threshold before it is compared."""
    real = type(threshold)
    points, hull = np.empty((24, 2)), np.empty((49, 2))
    keep = np.ones(rows.shape[1], np.bool_)
    for i in range(len(keep)):
        if not keep[i]:
            continue
        for j in range(i + 1, len(keep)):
            if keep[j]:
                iou = real(0.0 if _apart(rows, i, rows, j) else _ratio(rows, i, rows, j, 0, least_union, points, hull))
                keep[j] = not (iou > threshold or (iou == threshold and not strict))
    return keep
