"""Average precision and recall by 3D overlap, as mmdet3d computes them for rooms, and the rate of duplicates."""

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
    mAP and mAR NaN. Objects without a class (label -1) are left out; ``IndoorMetric`` takes them for the last class.

    Serves LiDAR sets too, where their own metric needs what is not at hand, e.g. nuScenes' devkit and database;
    velocities are not judged.

    Args:
        iou_thr: Overlaps of a hit.
        duplicate_iou: 3D IoU above which two predictions of a class are the same object.
        duplicate_score: Lowest score of predictions that are looked at for duplicates.
        limits: Objects and predictions whose centres lie outside ``(x0, y0, z0, x1, y1, z1)``, metres, are left out;
            e.g. the ``point_cloud_range`` of a detector that sees no farther.
        **kwargs: Arguments of ``mmdet3d.IndoorMetric``.
    """

    def __init__(self, iou_thr: float | list[float] = (0.25, 0.5), duplicate_iou: float = 0.25,
                 duplicate_score: float = 0.0, limits: Sequence[float] | None = None, **kwargs) -> None:
        super().__init__(iou_thr if isinstance(iou_thr, float) else list(iou_thr), **kwargs)
        if limits is not None and len(limits) != 6:
            raise ValueError(f'test_evaluator.limits must be (x0, y0, z0, x1, y1, z1), not {limits}')
        self.duplicate_iou, self.duplicate_score, self.limits = duplicate_iou, duplicate_score, limits

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Evaluate.

        Args:
            results: Annotations and predictions of each frame.

        Returns:
            mmdet3d's values and ``duplicate_rate`` in [0, 1].
        """
        results = [(self._objects(truth), self._predictions(found)) for truth, found in results]
        known = {int(label) for truth, _ in results for label in truth['gt_labels_3d']}
        if not known:
            raise ValueError('IndoorDuplicatesMetric: no frame has an annotated object'
                             + (f' within test_evaluator.limits {list(self.limits)}' if self.limits is not None else '')
                             + '; set test_mode=True and leave load_eval_anns as it is in test_dataloader.dataset')
        kind = type(results[0][0]['gt_bboxes_3d']).__name__.removesuffix('Instance3DBoxes').lower()
        self.dataset_meta = {**self.dataset_meta, 'box_type_3d': kind}  # data sets do not say, and mmdet3d takes depth
        values = super().compute_metrics([(truth, _of_classes(found, known)) for truth, found in results])
        pairs = [self._duplicates(found) for _, found in results]
        count = sum(len(each) for each in pairs)
        values['duplicate_rate'] = float(sum(int(each.sum()) for each in pairs) / count) if count else 0.0
        print_log(f'duplicates: {values["duplicate_rate"]:.1%} of {count} predictions overlap a better-scored one of '
                  f'their class by IoU > {self.duplicate_iou:g}', logger='current')
        return values

    def _objects(self, truth: dict) -> dict:
        """The annotated objects of one frame that count."""
        labels = np.asarray(truth['gt_labels_3d'])
        keep = (labels >= 0) & self._inside(truth['gt_bboxes_3d']).numpy()
        return dict(gt_bboxes_3d=_still(truth['gt_bboxes_3d'][torch.from_numpy(keep)]), gt_labels_3d=labels[keep])

    def _predictions(self, found: dict) -> dict:
        """The predictions of one frame that count."""
        keep = self._inside(found['bboxes_3d'])
        return dict(bboxes_3d=_still(found['bboxes_3d'][keep]), scores_3d=found['scores_3d'][keep],
                    labels_3d=found['labels_3d'][keep])

    def _inside(self, boxes: BaseInstance3DBoxes) -> Tensor:
        """Which boxes (N,) have their centre within the limits."""
        if self.limits is None:
            return torch.ones(len(boxes), dtype=torch.bool)
        low, high = torch.tensor(self.limits, dtype=torch.float32).view(2, 3)
        return ((boxes.gravity_center >= low) & (boxes.gravity_center <= high)).all(1)

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


def _still(boxes: BaseInstance3DBoxes) -> BaseInstance3DBoxes:
    """Boxes without velocities (N, 7), as mmdet3d's evaluation wants them."""
    return boxes if boxes.box_dim <= 7 else type(boxes)(boxes.tensor[:, :7], with_yaw=boxes.with_yaw)


def _of_classes(found: dict, known: Sequence[int]) -> dict:
    """Predictions of some classes only."""
    keep = torch.from_numpy(np.isin(found['labels_3d'].numpy(), sorted(known)))
    return {key: value[keep] for key, value in found.items()}
