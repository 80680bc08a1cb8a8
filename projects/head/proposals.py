"""Proposals of a single-stage student, each with the place of the dense prediction that it comes from.

HEtero-Assists Distillation, ECCV 2022, https://arxiv.org/abs/2207.05345
Official code: https://github.com/LutingWang/HEAD (Apache-2.0); this is an independent implementation.
Differences: a place is a field of ``InstanceData`` that follows the box; there it is four more columns of the anchors,
and the head's class is swapped for that of an RPN for a moment. FCOS, ATSS and GFL are decoded as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead, VFNetHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures.bbox import bbox2roi
from mmengine.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.distill import DistillError

HEADS = (RetinaHead, FCOSHead, ATSSHead, GFLHead)


@dataclass
class Sampled:
    """The boxes of a batch that a RoI head is trained on.

    Args:
        results: mmdet's sampling result of each image; positives come before negatives.
        rois: All boxes (N, 5): image index, x1, y1, x2, y2 in pixels of the network's input.
        places: Where each comes from (N, 5): image index, level, y, x, anchor; -1 from the level on for a ground truth
            that the sampler added.
    """

    results: list[SamplingResult]
    rois: Tensor
    places: Tensor

    @property
    def dense(self) -> Tensor:
        """Mask (N,) of the boxes that are dense predictions."""
        return self.places[:, 1] >= 0

    def gather(self, levels: Sequence[Tensor]) -> Tensor:
        """Vectors of maps at the places of the dense predictions.

        Args:
            levels: Maps (B, C, H, W), one a level of the head.

        Returns:
            Rows (N', C) in the order of ``rois[dense]``.
        """
        image, level, y, x, _ = self.places[self.dense].unbind(1)
        parts = [(level == i).nonzero()[:, 0] for i in range(len(levels))]
        rows = torch.cat([maps[image[part], :, y[part], x[part]] for maps, part in zip(levels, parts)])
        return rows[torch.cat(parts).argsort()]


def check_head(head: nn.Module) -> None:
    """Refuse a head whose predictions cannot be read.

    Raises:
        DistillError: Naming the heads that can.
    """
    if not isinstance(head, HEADS) or isinstance(head, VFNetHead) or not head.use_sigmoid_cls:
        raise DistillError('the student must have a head of the kind RetinaHead, FCOSHead, ATSSHead or GFLHead with '
                           f'sigmoid scores, which can propose boxes; it has {type(head).__name__}')


def decode(head: nn.Module, predictions: Tensor, priors: Tensor, stride: int, shape: tuple[int, int] | None) -> Tensor:
    """Boxes of dense predictions.

    Args:
        head: A head of :data:`HEADS`.
        predictions: Rows (N, 4), or (N, 4 * bins) of GFL, as the head returns them in its present mode.
        priors: Anchors (N, 4), or points (N, 2) of FCOS.
        stride: Stride of the level.
        shape: Image (height, width) to clip at; None for no clipping.

    Returns:
        Boxes (N, 4).
    """
    if isinstance(head, GFLHead):
        priors, predictions = head.anchor_center(priors), head.integral(predictions) * stride
    elif getattr(head, 'norm_on_bbox', False) and head.training:  # FCOS multiplies by itself in eval mode only
        predictions = predictions * stride
    return head.bbox_coder.decode(priors, predictions, max_shape=shape)


@torch.no_grad()
def propose(head: nn.Module, outputs: Sequence[Tensor], metas: Sequence[dict], nms_pre: int = 2000,
            max_per_img: int = 1000, iou_threshold: float = 0.7) -> list[InstanceData]:
    """Make class-agnostic proposals of a dense head's predictions, as an RPN makes its own.

    The score is the largest of all classes; each level keeps its ``nms_pre`` best, NMS works level by level.

    Args:
        head: A head of :data:`HEADS`.
        outputs: What the head returned, flat: the class scores (B, anchors * classes, H, W) of all levels, then their
            box predictions, then whatever else there is, which is not read.
        metas: Meta information of the images, with ``img_shape``.
        nms_pre: Boxes of a level before NMS [official code].
        max_per_img: Boxes of an image after NMS [official code].
        iou_threshold: Of the NMS [official code].

    Returns:
        For each image ``bboxes`` (K, 4), ``scores`` (K,) and ``places`` (K, 4): level, y, x, anchor.
    """
    strides = [stride if isinstance(stride, int) else stride[0] for stride in head.prior_generator.strides]
    scores, boxes = outputs[:len(strides)], outputs[len(strides):2 * len(strides)]
    priors = head.prior_generator.grid_priors([level.shape[-2:] for level in scores], dtype=scores[0].dtype,
                                              device=scores[0].device)
    found = []
    for image, meta in enumerate(metas):
        levels = []
        for level, stride in enumerate(strides):
            logits = scores[level][image].permute(1, 2, 0)  # (H, W, anchors * classes)
            height, width = logits.shape[:2]
            best = logits.reshape(height * width, -1, head.cls_out_channels).amax(-1)  # (H * W, anchors)
            anchors = best.shape[1]
            best, chosen = best.flatten().topk(min(nms_pre, best.numel()))
            rows = boxes[level][image].permute(1, 2, 0).reshape(height * width * anchors, -1)[chosen]
            cell = chosen // anchors
            levels.append(InstanceData(
                bboxes=decode(head, rows, priors[level][chosen], stride, meta['img_shape']), scores=best.sigmoid(),
                places=torch.stack([torch.full_like(cell, level), cell // width, cell % width, chosen % anchors], 1)))
        merged = InstanceData.cat(levels)
        merged = merged[(merged.bboxes[:, 2:] > merged.bboxes[:, :2]).all(1)]
        if len(merged):
            keep = batched_nms(merged.bboxes, merged.scores, merged.places[:, 0],
                               dict(type='nms', iou_threshold=iou_threshold))[1]
            merged = merged[keep[:max_per_img]]
        found.append(merged)
    return found


class Proposer:
    """Proposals of a dense head, assigned to ground truths and sampled as a RoI head wants them.

    Args:
        rcnn: ``train_cfg.rcnn`` of a Faster R-CNN: assigner and sampler.
        proposals: Arguments of :func:`propose`: ``nms_pre``, ``max_per_img``, ``iou_threshold``.
    """

    def __init__(self, rcnn: dict, proposals: dict[str, Any]) -> None:
        self.proposals = proposals
        self.assigner = TASK_UTILS.build(dict(rcnn['assigner'], _scope_='mmdet'))
        self.sampler = TASK_UTILS.build(dict(rcnn['sampler'], _scope_='mmdet'))

    def __call__(self, head: nn.Module, outputs: Sequence[Tensor], samples: Sequence, generator: torch.Generator
                 ) -> Sampled:
        """Propose and sample.

        Args:
            head: The student's head.
            outputs: What it returned (:func:`propose`).
            samples: Data samples with ground truths.
            generator: Random numbers of the sampler; mmdet's samplers know torch's global ones only, which are left as
                they were.
        """
        truths, ignored, metas = unpack_gt_instances(samples)
        results, places = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            for image, found in enumerate(propose(head, outputs, metas, **self.proposals)):
                priors = InstanceData(priors=found.bboxes)
                assigned = self.assigner.assign(priors, truths[image], ignored[image])
                result = self.sampler.sample(assigned, priors, truths[image])
                added = len(assigned.gt_inds) - len(found)  # the sampler puts ground truths first
                origin = torch.cat([found.places.new_full((added, 4), -1), found.places])
                origin = origin[torch.cat([result.pos_inds, result.neg_inds])]
                results.append(result)
                places.append(torch.cat([torch.full_like(origin[:, :1], image), origin], 1))
        return Sampled(results, bbox2roi([result.priors for result in results]), torch.cat(places))
