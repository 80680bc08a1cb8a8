"""Indoor 3D detection: average precision and recall as mmdet3d computes them, and the rate of duplicates."""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet3d.evaluation.metrics import IndoorMetric
from mmdet3d.structures import BaseInstance3DBoxes
from mmengine.logging import print_log
from torch import Tensor

from mmpapers.registry import METRICS


@METRICS.register_module()
class IndoorDuplicatesMetric(IndoorMetric):
    """mmdet3d's ``IndoorMetric`` (ScanNet, SUN RGB-D) with the rate of duplicate predictions.

    A prediction is a duplicate if a better-scored one of its class overlaps it: what a detector without non-maximum
    suppression should avoid by itself. ``duplicate_rate`` is the share of duplicates among all predictions.
    Predictions of classes that no frame has an object of are left out of the averages; with ``IndoorMetric`` they make
    mAP and mAR NaN.

    Args:
        iou_thr: Overlaps of a hit.
        duplicate_iou: 3D IoU above which two predictions of a class are the same object.
        duplicate_score: Lowest score of predictions that are looked at for duplicates.
        **kwargs: Arguments of ``mmdet3d.IndoorMetric``.
    """

    def __init__(self, iou_thr: float | list[float] = (0.25, 0.5), duplicate_iou: float = 0.25,
                 duplicate_score: float = 0.0, **kwargs) -> None:
        super().__init__(iou_thr if isinstance(iou_thr, float) else list(iou_thr), **kwargs)
        self.duplicate_iou, self.duplicate_score = duplicate_iou, duplicate_score

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Evaluate.

        Args:
            results: Annotations and predictions of each frame.

        Returns:
            mmdet3d's values and ``duplicate_rate`` in [0, 1].
        """
        known = {int(label) for truth, _ in results for label in truth['gt_labels_3d'] if label >= 0}
        if not known:
            raise ValueError('IndoorDuplicatesMetric: no frame has an annotated object; set test_mode=True and leave '
                             'load_eval_anns as it is in test_dataloader.dataset')
        values = super().compute_metrics([(truth, _of_classes(found, known)) for truth, found in results])
        pairs = [self._duplicates(found) for _, found in results]
        count = sum(len(each) for each in pairs)
        values['duplicate_rate'] = float(sum(int(each.sum()) for each in pairs) / count) if count else 0.0
        print_log(f'duplicates: {values["duplicate_rate"]:.1%} of {count} predictions overlap a better-scored one of '
                  f'their class by IoU > {self.duplicate_iou:g}', logger='current')
        return values

    def _duplicates(self, found: dict) -> Tensor:
        """Which predictions (M,) of one frame are duplicates, of those with a sufficient score."""
        keep = found['scores_3d'] >= self.duplicate_score
        return duplicates(found['bboxes_3d'][keep], found['scores_3d'][keep], found['labels_3d'][keep],
                          self.duplicate_iou)


def duplicates(boxes: BaseInstance3DBoxes, scores: Tensor, labels: Tensor, iou: float = 0.25) -> Tensor:
    """Find predictions that overlap a better-scored one of their class.

    Args:
        boxes: N boxes.
        scores: (N,); of equal ones the first counts as better.
        labels: (N,).
        iou: 3D IoU above which two predictions are the same object.

    Returns:
        (N,) bool.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.bool)
    order = torch.sort(scores, descending=True, stable=True).indices
    overlap = boxes.overlaps(boxes[order], boxes[order]) > iou
    same = labels[order][:, None] == labels[order]
    found = torch.empty(len(boxes), dtype=torch.bool)
    found[order] = (overlap & same).tril(-1).any(1)
    return found


def _of_classes(found: dict, known: Sequence[int]) -> dict:
    """Predictions of some classes only."""
    keep = torch.from_numpy(np.isin(found['labels_3d'].numpy(), sorted(known)))
    return {key: value[keep] for key, value in found.items() if key in ('bboxes_3d', 'scores_3d', 'labels_3d')}
