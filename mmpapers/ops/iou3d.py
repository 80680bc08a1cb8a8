"""Bird's-eye overlap and greedy NMS of 3D boxes: x, y, z, dx, dy, dz, heading in radians around z.

mmcv 2.1.0 has these kernels for CUDA only. There a corner counts as inside another box up to 1 cm outside of it, so
that overlaps of near boxes come out a little larger or smaller; here they are exact.
"""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, widen
from ._rotated import Mode, overlaps
from ._rotated import keep as keep_rotated
from .nms import greedy_torch

_BEV = [0, 1, 3, 4, 6]  # x, y, dx, dy, heading
_LEAST_UNION = 1e-8


def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_iou: Tensor) -> None:
    """Area that boxes share, seen from above.

    Args:
        boxes_a: (N, 7).
        boxes_b: (M, 7).
        ans_iou: (N, M), written in place: areas, in spite of mmcv's name.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('iou3d_boxes_overlap_bev', boxes_a)
    _check('iou3d_boxes_overlap_bev', boxes_b)
    ans_iou.copy_(overlaps(boxes_a[:, _BEV], boxes_b[:, _BEV], Mode.AREA))


def iou3d_nms3d_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Drop boxes whose bird's-eye IoU with a better kept one is above a threshold.

    Args:
        boxes: (N, 7) by descending score.
        keep: (N,) int64; its first K entries are written: the rows that are kept.
        num_out: Scalar int64, written: K.
        nms_overlap_thresh: Boxes with IoU > this are dropped.

    Raises:
        ValueError: If ``boxes`` is not (N, 7).
    """
    _check('iou3d_nms3d', boxes)
    kept = keep_rotated(boxes[:, _BEV], nms_overlap_thresh, strict=True, least_union=_LEAST_UNION)
    _write(kept, keep, num_out)


def iou3d_nms3d_normal_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """The same with the headings taken as 0.

    Args:
        boxes: (N, 7) by descending score.
        keep: (N,) int64; its first K entries are written: the rows that are kept.
        num_out: Scalar int64, written: K.
        nms_overlap_thresh: Boxes with IoU > this are dropped.

    Raises:
        ValueError: If ``boxes`` is not (N, 7).
    """
    _check('iou3d_nms3d_normal', boxes)
    boxes = widen(boxes)
    centre, half = boxes[:, :2], boxes[:, 3:5] / 2
    rows = torch.cat([centre - half, centre + half, boxes[:, 3:4] * boxes[:, 4:5]], 1)
    threshold = float(np.float32(nms_overlap_thresh))  # mmcv's type
    if _numba.native(rows):
        columns = array(rows.T)
        real = columns.dtype.type
        kept = torch.from_numpy(_keep_upright_numba(*columns, real(threshold), real(_LEAST_UNION)))
    else:
        kept = greedy_torch(rows, lambda a, b: _iou_upright_torch(a[:, None], b) > threshold)
    _write(kept, keep, num_out)


def _write(kept: Tensor, keep: Tensor, num_out: Tensor) -> None:
    """Write the rows of a mask and their number."""
    rows = kept.nonzero()[:, 0]
    keep[:len(rows)] = rows.to(keep.device)
    num_out.fill_(len(rows))


def _check(op: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f'{op}: boxes must be (N, 7) = (x, y, z, dx, dy, dz, heading), but are {tuple(boxes.shape)}; '
                         'cut further columns such as velocities off: boxes[:, :7]')


def _iou_upright_torch(a: Tensor, b: Tensor) -> Tensor:
    """IoU of rows x1, y1, x2, y2, area that broadcast."""
    shared = (torch.minimum(a[..., 2:4], b[..., 2:4]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return shared / (a[..., 4] + b[..., 4] - shared).clamp(min=_LEAST_UNION)


@jit
def _keep_upright_numba(x1, y1, x2, y2, area, threshold, least_union):
    """Mask of the kept ones; the inner loop runs over slices without branches, so that LLVM vectorises it."""
    n = len(x1)
    drop = np.zeros(n, np.int32)
    zero = threshold - threshold
    for i in range(n):
        if drop[i]:
            continue
        a, b, c, d, e = x1[i], y1[i], x2[i], y2[i], area[i]
        p, q, r, s, t, rest = x1[i + 1:], y1[i + 1:], x2[i + 1:], y2[i + 1:], area[i + 1:], drop[i + 1:]
        for j in range(n - i - 1):
            w = (r[j] if r[j] < c else c) - (p[j] if a < p[j] else a)
            h = (s[j] if s[j] < d else d) - (q[j] if b < q[j] else b)
            shared = (w if zero < w else zero) * (h if zero < h else zero)
            whole = e + t[j] - shared
            whole = whole if least_union < whole else least_union
            rest[j] = np.int32(1) if shared / whole > threshold else rest[j]
    return drop == 0
