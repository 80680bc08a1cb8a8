"""Pairwise or aligned overlap of boxes, as in mmcv 2.1.0's CPU kernel."""

import torch
from torch import Tensor

from ._numba import widen


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write intersection over union, or over the first box, to ``ious``.

    Args:
        bboxes1: (M, 4), x1, y1, x2, y2.
        bboxes2: (N, 4).
        ious: (M, N), or (M,) if ``aligned``; written in place. NaN for 0/0, two boxes without area.
        mode: 0 union, 1 foreground (the area of the first box).
        aligned: Compare box i with box i only.
        offset: 0, or 1 where a width is ``x2 - x1 + 1``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    m, n = len(bboxes1), len(bboxes2)
    shape = (m,) if aligned else (m, n)
    if ious.shape != shape or (aligned and m != n):
        raise ValueError(f'bbox_overlaps: {m} and {n} boxes with aligned={aligned} do not fit an output of shape '
                         f'{tuple(ious.shape)}' + ('; aligned boxes come in pairs' if aligned and m != n else ''))
    if 0 in shape:
        return
    a, b = (widen(boxes).unbind(1) for boxes in (bboxes1, bboxes2))
    areas = [(x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b)]
    if not aligned:
        a = [column[:, None] for column in a]
        areas[0] = areas[0][:, None]
    inter = None
    for axis in (0, 1):
        side = torch.minimum(a[axis + 2], b[axis + 2]).sub_(torch.maximum(a[axis], b[axis]))
        side = side.add_(offset).clamp_(min=0)
        inter = side if inter is None else inter.mul_(side)
    whole = areas[0] + areas[1] - inter if mode == 0 else areas[0]
    ious.copy_(inter / whole)
