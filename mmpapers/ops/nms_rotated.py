"""Greedy NMS of rotated rectangles and of quadrilaterals, as in mmcv 2.1.0's CPU kernels.

A box is dropped if its IoU with a better kept one is at least the threshold: so on the CPU; mmcv's CUDA kernels demand
more than the threshold. Equal scores keep the order of the input, NaN scores rank first. Labels change nothing, as in
mmcv, whose kernels do not read them: boxes of different classes suppress each other unless ``batched_nms`` moves them
apart.
"""

from torch import Tensor

from ._rotated import keep


def nms_rotated(dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, labels: Tensor, iou_threshold: float,
                multi_label: int) -> Tensor:
    """Keep the best of the rotated rectangles that overlap.

    Args:
        dets: (N, 5), centre x and y, width, height, angle in radians; further columns are not read.
        scores: (N,).
        order: Not read; the order is found anew, with ties in the order of the input.
        dets_sorted: Not read.
        labels: Not read.
        iou_threshold: Boxes with IoU >= this are dropped.
        multi_label: Not read.

    Returns:
        (K,) int64 indices of the kept boxes by descending score.

    Raises:
        ValueError: If the shapes do not fit.
    """
    return _nms('nms_rotated', 5, dets, scores, iou_threshold)


def nms_quadri(dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float,
               multi_label: int) -> Tensor:
    """Keep the best of the quadrilaterals that overlap.

    Args:
        dets: (N, 8), corners x1, y1, ..., x4, y4; further columns are not read.
        scores: (N,).
        order: Not read, as in :func:`nms_rotated`.
        dets_sorted: Not read.
        iou_threshold: Boxes with IoU >= this are dropped.
        multi_label: Not read.

    Returns:
        (K,) int64 indices of the kept boxes by descending score.

    Raises:
        ValueError: If the shapes do not fit.
    """
    return _nms('nms_quadri', 8, dets, scores, iou_threshold)


def _nms(op: str, columns: int, dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Check the shapes, sort, and drop."""
    if dets.ndim != 2 or dets.shape[1] < columns or scores.shape != dets.shape[:1]:
        raise ValueError(f'{op}: needs boxes (N, {columns}) and scores (N,), but got {tuple(dets.shape)} and '
                         f'{tuple(scores.shape)}')
    order = scores.detach().sort(dim=0, descending=True, stable=True)[1]
    return order[keep(dets[order, :columns], iou_threshold, strict=False)]
