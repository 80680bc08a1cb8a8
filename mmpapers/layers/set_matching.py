"""Hungarian matching for DETR heads: all layers, images and query sets of a step in one transfer to the CPU.

mmdet's heads match layer by layer and image by image, and each time wait for the device. Here every image's costs are
computed once for all layers (by mmdet's own match costs, whichever the config names), moved together, solved with
SciPy, and the results moved back together. The assignments are those of ``HungarianAssigner``.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.models.task_modules.assigners.match_cost import FocalLossCost
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class BatchedMatchingHead(DETRHead):
    """A DETR head that matches a whole step at once.

    It is made to be mixed in behind a head of mmdet, ``class MyHead(DINOHead, BatchedMatchingHead)``: Python's method
    resolution then puts it between that head and ``DETRHead``, where all families of heads come through.
    """

    def loss_by_feat(self, all_layers_cls_scores: Tensor, all_layers_bbox_preds: Tensor,
                     batch_gt_instances: Sequence[InstanceData], batch_img_metas: Sequence[dict],
                     batch_gt_instances_ignore: None = None) -> dict[str, Tensor]:
        """Losses of all decoder layers.

        Args:
            all_layers_cls_scores: (layers, images, queries, classes).
            all_layers_bbox_preds: (layers, images, queries, 4) as (cx, cy, w, h) in [0, 1].
            batch_gt_instances: Labels of each image.
            batch_img_metas: Meta information of each image.
            batch_gt_instances_ignore: Not supported by DETR heads.

        Returns:
            mmdet's losses.
        """
        with self._matched(all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances, batch_img_metas):
            return super().loss_by_feat(all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances,
                                        batch_img_metas, batch_gt_instances_ignore)

    def get_targets(self, cls_scores_list: list[Tensor], bbox_preds_list: list[Tensor],
                    batch_gt_instances: Sequence[InstanceData], batch_img_metas: Sequence[dict]) -> tuple:
        """Targets of one layer; a layer outside of :meth:`loss_by_feat` (the encoder's) is matched here, at once."""
        if isinstance(self.assigner, _Prepared):
            return super().get_targets(cls_scores_list, bbox_preds_list, batch_gt_instances, batch_img_metas)
        scores, boxes = torch.stack(cls_scores_list)[None], torch.stack(bbox_preds_list)[None]
        with self._matched(scores, boxes, batch_gt_instances, batch_img_metas):
            return super().get_targets(list(scores[0]), list(boxes[0]), batch_gt_instances, batch_img_metas)

    @contextlib.contextmanager
    def _matched(self, scores: Tensor, boxes: Tensor, gts: Sequence[InstanceData], metas: Sequence[dict]
                 ) -> Iterator[None]:
        """Let the assigner know its answers while the block runs; assigners of other kinds go on as they are."""
        own = self.assigner
        if type(own) is not HungarianAssigner:
            yield
            return
        self.assigner = _Prepared(own, scores, match(own, scores, boxes, gts, metas))
        try:
            yield
        finally:
            self.assigner = own


class _Prepared:
    """An assigner that has assigned already; it knows predictions by where they lie in memory."""

    def __init__(self, own: HungarianAssigner, scores: Tensor, assigned: Tensor) -> None:
        self.own = own
        self.scores = scores  # kept alive, so that addresses stay unique
        self.rows = {scores[layer, image].data_ptr(): assigned[layer, image]
                     for layer in range(len(scores)) for image in range(scores.shape[1])}

    def assign(self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None,
               **kwargs: Any) -> AssignResult:
        row = self.rows.get(pred_instances.scores.data_ptr())
        if row is None or len(row) != len(pred_instances):
            return self.own.assign(pred_instances, gt_instances, img_meta, **kwargs)
        return AssignResult(len(gt_instances), row, max_overlaps=None, labels=None)


@torch.no_grad()
def match(assigner: HungarianAssigner, scores: Tensor, boxes: Tensor, gts: Sequence[InstanceData],
          metas: Sequence[dict]) -> Tensor:
    """Match the predictions of all layers and images with the labels.

    Args:
        assigner: Whose match costs are used.
        scores: Class logits (layers, images, queries, classes).
        boxes: (layers, images, queries, 4) as (cx, cy, w, h) in [0, 1].
        gts: Labels of each image.
        metas: Meta information of each image, for ``img_shape``. Images that follow one another with the same labels
            object (the groups of one image) share one cost computation.

    Returns:
        (layers, images, queries): 0 for no object, else the label's position + 1. Where labels outnumber queries, as
        many labels as queries are matched.

    Raises:
        ValueError: If predictions are NaN or infinite.
    """
    layers, images, queries, classes = scores.shape
    assigned = np.zeros((layers, images, queries), np.int64)
    parts, places, start = [], [], 0
    while start < images:
        end = start + 1
        while end < images and gts[end] is gts[start]:
            end += 1
        count = len(gts[start])
        if count and queries:
            parts.append(_cost(assigner, scores[:, start:end].reshape(-1, classes),
                               boxes[:, start:end].reshape(-1, 4), gts[start], metas[start]).flatten())
            places.append((start, end, count))
        start = end
    if parts:
        flat = torch.cat([part.float() for part in parts]).cpu().numpy()
        if not np.isfinite(flat).all():
            raise ValueError('the matching costs are NaN or infinite: the predictions have diverged; lower '
                             'optim_wrapper.optimizer.lr, or clip gradients (optim_wrapper.clip_grad)')
        offset = 0
        for start, end, count in places:
            size = layers * (end - start) * queries * count
            costs = flat[offset:offset + size].reshape(layers, end - start, queries, count)
            offset += size
            for layer in range(layers):
                for image in range(end - start):
                    rows, columns = linear_sum_assignment(costs[layer, image])
                    assigned[layer, start + image, rows] = columns + 1
    return torch.from_numpy(assigned).to(scores.device)


def _cost(assigner: HungarianAssigner, scores: Tensor, boxes: Tensor, gt: InstanceData, meta: dict) -> Tensor:
    """Costs (predictions, labels) of one image."""
    height, width = meta['img_shape'][:2]
    pixels = bbox_cxcywh_to_xyxy(boxes) * boxes.new_tensor([width, height, width, height])
    predictions = InstanceData(scores=scores, bboxes=pixels)
    costs = [_focal(cost, scores, gt.labels) if type(cost) is FocalLossCost and not cost.binary_input
             else cost(pred_instances=predictions, gt_instances=gt, img_meta=meta) for cost in assigner.match_costs]
    return torch.stack(costs).sum(0)


def _focal(cost: FocalLossCost, scores: Tensor, labels: Tensor) -> Tensor:
    """mmdet's focal cost, which looks at every class by itself, of the labels' classes instead of all."""
    if len(labels) < scores.shape[1]:
        scores, labels = scores[:, labels], torch.arange(len(labels), device=labels.device)
    return cost(InstanceData(scores=scores), InstanceData(labels=labels))
