"""IoU of rotated rectangles and of quadrilaterals, as in mmcv 2.1.0's CPU kernels.

Boxes with an area below 1e-14 have an IoU of 0. Others are exact; mmcv's hull in float32 loses area where sizes are
below 1e-3. What quadrilaterals give that are no rectangles is said in :mod:`._rotated`.
"""

from torch import Tensor

from ._rotated import Mode, overlaps


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Compare rotated rectangles.

    Args:
        boxes1: (N, 5), centre x and y, width, height, angle in radians.
        boxes2: (M, 5).
        ious: (N * M,) or (N, M), or (N,) if ``aligned``; written in place.
        mode_flag: 0 for intersection over union, 1 for intersection over the area of ``boxes1``.
        aligned: Compare boxes of the same index only.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _compare('box_iou_rotated', 5, '(x, y, w, h, angle)', boxes1, boxes2, ious, mode_flag, aligned)


def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Compare quadrilaterals.

    Args:
        boxes1: (N, 8), corners x1, y1, ..., x4, y4.
        boxes2: (M, 8).
        ious: (N * M,) or (N, M), or (N,) if ``aligned``; written in place.
        mode_flag: 0 for intersection over union, 1 for intersection over the area of ``boxes1``.
        aligned: Compare boxes of the same index only.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _compare('box_iou_quadri', 8, '(x1, y1, ..., x4, y4)', boxes1, boxes2, ious, mode_flag, aligned)


def _compare(op: str, columns: int, meaning: str, boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int,
             aligned: bool) -> None:
    """Check the shapes and write the comparison to ``ious``."""
    for boxes in (boxes1, boxes2):
        if boxes.ndim != 2 or boxes.shape[1] != columns:
            raise ValueError(f'{op}: boxes must be (N, {columns}) = {meaning}, but are {tuple(boxes.shape)}')
    if aligned and len(boxes1) != len(boxes2):
        raise ValueError(f'{op}: aligned=True compares box i with box i, but there are {len(boxes1)} and {len(boxes2)}')
    ious.copy_(overlaps(boxes1, boxes2, Mode(mode_flag), aligned).view(ious.shape))
