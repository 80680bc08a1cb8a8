"""Which points lie in which 3D boxes, and in which quadrilaterals, as in mmcv 2.1.0.

A box is x, y, z of the centre of its bottom, its sizes, and its heading in radians around z. A point on its bottom or
top is inside, one on a side is not; a point with a NaN coordinate is in no box.
"""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, parallel, widen

_PAIRS = 1 << 22  # points x boxes at a time in the torch path; bounds its buffers


def points_in_boxes_part_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Find the first box that each point is in.

    Args:
        boxes_tensor: (B, T, 7).
        pts_tensor: (B, M, 3).
        box_idx_of_points_tensor: (B, M) int32, written where a point is in a box.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('points_in_boxes_part', boxes_tensor, pts_tensor)
    for boxes, points, out in zip(boxes_tensor, pts_tensor, box_idx_of_points_tensor):
        rows, points = _rows(boxes, points)
        if _numba.native(points):
            first = array(out.to(torch.int32))
            parallel(_first_numba, len(points), array(rows), array(points.T), first, grain=4096)
            out.copy_(torch.from_numpy(first))
            continue
        for part, target in zip(points.split(_step(rows)), out.split(_step(rows))):
            mask = _inside_torch(rows, part)
            target.copy_(torch.where(mask.any(0), mask.to(torch.uint8).argmax(0), target) if len(rows) else target)


def points_in_boxes_all_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Find all boxes that each point is in.

    Args:
        boxes_tensor: (B, T, 7).
        pts_tensor: (B, M, 3).
        box_idx_of_points_tensor: (B, M, T) int32, written: 1 inside, 0 outside.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('points_in_boxes_all', boxes_tensor, pts_tensor)
    for boxes, points, out in zip(boxes_tensor, pts_tensor, box_idx_of_points_tensor):
        out.copy_(inside(boxes, points).T)


def points_in_boxes_cpu_forward(boxes_tensor: Tensor, pts_tensor: Tensor, pts_indices_tensor: Tensor) -> None:
    """The same for one cloud, transposed; it takes tensors of any device.

    Args:
        boxes_tensor: (T, 7).
        pts_tensor: (M, 3).
        pts_indices_tensor: (T, M) int32, written: 1 inside, 0 outside.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('points_in_boxes_cpu', boxes_tensor[None], pts_tensor[None])
    pts_indices_tensor.copy_(inside(boxes_tensor, pts_tensor))


def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Find the quadrilaterals that each point is in, by the number of sides to its right.

    A point on a corner or a side ends the count there, as in mmcv: it is inside or not as the sides come.

    Args:
        points: (N, 2).
        polygons: (M, 8), corners x1, y1, ..., x4, y4.
        output: (N, M), written: 1 inside, 0 outside.
    """
    points = widen(points)
    corners = widen(polygons).to(points.dtype).view(-1, 4, 2)
    px, py = points[:, :1], points[:, 1:]
    right = torch.zeros(output.shape, dtype=torch.bool, device=points.device)
    counting = torch.ones_like(right)
    for k in range(4):
        (sx, sy), (tx, ty) = corners[:, k].unbind(1), corners[:, k - 1].unbind(1)
        level = (py >= torch.minimum(sy, ty)) & (py <= torch.maximum(sy, ty))
        on_corner = ((sx == px) & (sy == py)) | ((tx == px) & (ty == py))
        crossing = (sy < py) != (ty < py)
        x = sx + (py - sy) * (tx - sx) / torch.where(crossing, ty - sy, 1)
        counting &= ~(level & (on_corner | (crossing & (x == px))))
        right ^= counting & level & crossing & (x > px)
    output.copy_(right)


def inside(boxes: Tensor, points: Tensor) -> Tensor:
    """Return which of M points are in which of T boxes, (T, M) bool.

    Args:
        boxes: (T, 7).
        points: (M, 3), of the same device.
    """
    rows, points = _rows(boxes, points)
    mask = torch.empty(len(rows), len(points), dtype=torch.bool, device=points.device)
    if _numba.native(points):
        parallel(_inside_numba, len(points), array(rows), array(points.T), mask.numpy(), grain=4096)
        return mask
    for part, target in zip(points.split(_step(rows)), mask.split(_step(rows), dim=1)):
        target.copy_(_inside_torch(rows, part))
    return mask


def to_local(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y of points in the frames of boxes; ``rows`` (..., 8) of :func:`box_rows`, points (..., 3)."""
    dx, dy, cos, sin = points[..., 0] - rows[..., 0], points[..., 1] - rows[..., 1], rows[..., 6], rows[..., 7]
    return dx * cos + dy * sin, dy * cos - dx * sin


def box_rows(boxes: Tensor) -> Tensor:
    """Return x, y and z of the centre, half sizes, cosine and sine of boxes, (T, 8).

    The cosine is that of float64, rounded, so that all devices decide alike; MPS has none.
    """
    boxes = widen(boxes)
    half = boxes[:, 3:6] / 2
    angle = boxes[:, 6] if boxes.device.type == 'mps' else boxes[:, 6].double()
    turn = torch.stack([angle.cos(), angle.sin()], 1).to(boxes.dtype)
    return torch.cat([boxes[:, :2], boxes[:, 2:3] + half[:, 2:], half, turn], 1)


def _rows(boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of boxes and points, in one type."""
    rows, points = box_rows(boxes), widen(points)
    real = torch.promote_types(rows.dtype, points.dtype)
    return rows.to(real), points.to(real)


def _check(op: str, boxes: Tensor, points: Tensor) -> None:
    if boxes.ndim != 3 or boxes.shape[2] != 7 or points.ndim != 3 or points.shape[2] != 3 or len(boxes) != len(points):
        raise ValueError(f'{op}: needs boxes of 7 and points of 3 numbers, but got {tuple(boxes.shape)} and '
                         f'{tuple(points.shape)}; cut further columns off: boxes[..., :7], points[..., :3]')


def _step(rows: Tensor) -> int:
    return max(1, _PAIRS // max(1, len(rows)))


def _inside_torch(rows: Tensor, points: Tensor) -> Tensor:
    """:func:`inside` for any device."""
    rows = rows[:, None]
    x, y = to_local(rows, points)
    return (((points[:, 2] - rows[..., 2]).abs() <= rows[..., 5]) & (x.abs() < rows[..., 3])
            & (y.abs() < rows[..., 4]))


@jit
def _within(x, y, z, cx, cy, cz, w, h, d, cos, sin):
    """Whether a point is in a box."""
    x, y = x - cx, y - cy
    return (abs(z - cz) <= d) & (abs(x * cos + y * sin) < w) & (abs(y * cos - x * sin) < h)


# The inner loops run over slices and have no branches, so that LLVM vectorises them.


@jit
def _inside_numba(start, stop, rows, points, mask):
    """Points ``start`` to ``stop`` of :func:`inside`."""
    x, y, z = points[0, start:stop], points[1, start:stop], points[2, start:stop]
    for t in range(len(rows)):
        cx, cy, cz, w = rows[t, 0], rows[t, 1], rows[t, 2], rows[t, 3]
        h, d, cos, sin = rows[t, 4], rows[t, 5], rows[t, 6], rows[t, 7]
        out = mask[t, start:stop]
        for m in range(stop - start):
            out[m] = _within(x[m], y[m], z[m], cx, cy, cz, w, h, d, cos, sin)


@jit
def _first_numba(start, stop, rows, points, first):
    """The first box of points ``start`` to ``stop``, where there is one."""
    x, y, z, out = points[0, start:stop], points[1, start:stop], points[2, start:stop], first[start:stop]
    for t in range(len(rows) - 1, -1, -1):
        cx, cy, cz, w = rows[t, 0], rows[t, 1], rows[t, 2], rows[t, 3]
        h, d, cos, sin = rows[t, 4], rows[t, 5], rows[t, 6], rows[t, 7]
        index = np.int32(t)
        for m in range(stop - start):
            out[m] = index if _within(x[m], y[m], z[m], cx, cy, cz, w, h, d, cos, sin) else out[m]
