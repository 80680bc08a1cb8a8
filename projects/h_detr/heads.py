"""Heads that match one query set once and another K times. Paper, code and licence: see ``h_detr.py``."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import DeformableDETRHead, DINOHead
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers.layers.query_sets import QuerySets
from mmpapers.layers.set_matching import BatchedMatchingHead
from mmpapers.registry import MODELS

SCHEMES = ('branch', 'epoch', 'layer')


class HybridMatchingHeadMixin:
    """Adds the losses of the one-to-many set, ``..._one2many``, to a head's own.

    Args:
        k_one2many: Repetitions K of every label in one-to-many matching; 6 in the published scripts, and less than 3
            does harm (paper, ablation of K). 10 in the two variants without a branch.
        weight_one2many: Factor lambda on those losses (1 in the published scripts).
        scheme: ``'branch'`` (published default). Two variants of the paper have no branch (``num_one2many=0``, and
            1800 queries at test time too): ``'epoch'`` repeats labels during the first part of training, ``'layer'``
            in the first decoder layers.
        one2many_part: For ``'epoch'``, the part of training with repeated labels (paper: 2/3).
        one2many_layers: For ``'layer'``, the number of layers with repeated labels (paper: 4 of 6).
        *args, **kwargs: Of the base head.

    Raises:
        ValueError: If the scheme is unknown or K is less than 1.
    """

    def __init__(self, *args: Any, k_one2many: int = 6, weight_one2many: float = 1., scheme: str = 'branch',
                 one2many_part: float = 2 / 3, one2many_layers: int = 4, **kwargs: Any) -> None:
        if scheme not in SCHEMES:
            raise ValueError(f'model.bbox_head.scheme={scheme!r}; choose from {", ".join(SCHEMES)}')
        if k_one2many < 1:
            raise ValueError(f'model.bbox_head.k_one2many={k_one2many} must be 1 or more')
        super().__init__(*args, **kwargs)
        self.k_one2many = k_one2many
        self.weight_one2many = weight_one2many
        self.scheme = scheme
        self.one2many_part = one2many_part
        self.one2many_layers = one2many_layers

    def loss(self, hidden_states: Tensor, references: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample],
             query_sets: QuerySets | None = None, **others: Any) -> dict[str, Tensor]:
        """Losses of both sets.

        Args:
            hidden_states: (layers, images, queries, channels), the queries of both sets.
            references: For each layer (images, queries, 2 or 4).
            batch_data_samples: Labels.
            query_sets: Which queries belong to which set; None for the base head's loss.
            **others: What the base head takes: encoder outputs, DINO's denoising information.

        Returns:
            The base head's losses and, for every decoder layer, ``loss_cls_one2many``, ``loss_bbox_one2many`` and
            ``loss_iou_one2many``.
        """
        if query_sets is None:
            return super().loss(hidden_states, references, batch_data_samples=batch_data_samples, **others)
        hidden = query_sets.split(hidden_states, 2)
        boxes = [query_sets.split(reference, 1) for reference in references]
        losses = super().loss(hidden['one2one'], [box['one2one'] for box in boxes],
                              batch_data_samples=batch_data_samples, **others)
        outputs = self(hidden['one2many'], [box['one2many'] for box in boxes])
        further = self.repeated_losses(*outputs, [sample.gt_instances for sample in batch_data_samples],
                                       [sample.metainfo for sample in batch_data_samples])
        return {**losses, **{f'{name}_one2many': loss * self.weight_one2many for name, loss in further.items()}}


class _RepeatingHead(BatchedMatchingHead):
    """Losses of decoder layers, the first of which may see every label K times; mixed in behind a head of mmdet."""

    def loss_by_feat(self, all_layers_cls_scores: Tensor, all_layers_bbox_preds: Tensor,
                     batch_gt_instances: list[InstanceData], batch_img_metas: list[dict],
                     batch_gt_instances_ignore: None = None) -> dict[str, Tensor]:
        """See :class:`BatchedMatchingHead`."""
        scores, boxes, rest = all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances_ignore
        several = self._repeating_layers(len(scores))
        if not several:
            return super().loss_by_feat(scores, boxes, batch_gt_instances, batch_img_metas, rest)
        losses = self.repeated_losses(scores[:several], boxes[:several], batch_gt_instances, batch_img_metas)
        if several == len(scores):
            return losses
        losses = {name if '.' in name else f'd{several - 1}.{name}': loss for name, loss in losses.items()}
        others = super().loss_by_feat(scores[several:], boxes[several:], batch_gt_instances, batch_img_metas, rest)
        for name, loss in others.items():
            layer, dot, kind = name.rpartition('.')
            losses[f'd{int(layer[1:]) + several}.{kind}' if dot else name] = loss
        return losses

    def repeated_losses(self, scores: Tensor, boxes: Tensor, gts: list[InstanceData], metas: list[dict]
                        ) -> dict[str, Tensor]:
        """Losses against labels repeated K times, divided by the number of repeated labels.

        mmdet divides by the matched ones, which are fewer where K labels outnumber the queries.
        """
        losses = super().loss_by_feat(scores, boxes, [repeated(gt, self.k_one2many) for gt in gts], metas)
        counts = [self.k_one2many * len(gt) for gt in gts]
        pair = scores.new_tensor([sum(min(count, scores.shape[2]) for count in counts), sum(counts)])
        local, shared = _ratio(pair), _ratio(reduce_mean(pair))
        return {name: loss * (local if 'cls' in name and not self.sync_cls_avg_factor else shared)
                for name, loss in losses.items()}

    def _repeating_layers(self, layers: int) -> int:
        """How many of the layers see repeated labels outside of the branch."""
        if self.scheme == 'layer':
            return min(self.one2many_layers, layers)
        if self.scheme == 'epoch':
            hub = MessageHub.get_current_instance()
            done, whole = (hub.runtime_info.get(name, default) for name, default in (('iter', 0), ('max_iters', 1)))
            return layers if done < self.one2many_part * whole else 0
        return 0


@MODELS.register_module()
class HybridDeformableDETRHead(HybridMatchingHeadMixin, DeformableDETRHead, _RepeatingHead):
    """Deformable DETR's head with hybrid matching, for ``mmpapers.HybridDeformableDETR``.

    Args:
        *args, **kwargs: See :class:`HybridMatchingHeadMixin`; the rest is ``mmdet.DeformableDETRHead``'s.
    """


@MODELS.register_module()
class HybridDINOHead(HybridMatchingHeadMixin, DINOHead, _RepeatingHead):
    """DINO's head with hybrid matching, for ``mmpapers.HybridDINO``.

    Args:
        *args, **kwargs: See :class:`HybridMatchingHeadMixin`; the rest is ``mmdet.DINOHead``'s.
    """


def repeated(gt: InstanceData, times: int) -> InstanceData:
    """Labels repeated: 0, 1, ..., 0, 1, ..."""
    return gt[torch.arange(len(gt), device=gt.labels.device).repeat(times)]


def _ratio(pair: Tensor) -> Tensor:
    """Matched by wanted, 1 where nothing is wanted; at least one counts, as in mmdet's normaliser."""
    return pair[0].clamp(min=1) / pair[1].clamp(min=1)
