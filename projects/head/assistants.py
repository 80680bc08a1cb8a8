"""Assistants: heads of another kind on a student's neck, trained with it and dropped afterwards.

HEtero-Assists Distillation, ECCV 2022, https://arxiv.org/abs/2207.05345
Official code: https://github.com/LutingWang/HEAD (Apache-2.0); this is an independent implementation.
Differences: see README.md.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmpapers.distill import DistillError
from mmpapers.distill.presets import preset
from mmpapers.distill.taps import Taps
from mmpapers.projects.head.proposals import Sampled
from mmpapers.registry import MODELS

# Shared2FC head, sampler and assigner of Faster R-CNN, as the official code inherits them from mmdet.
BBOX_HEAD = dict(
    type='Shared2FCBBoxHead', fc_out_channels=1024, roi_feat_size=7, reg_class_agnostic=False,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]),
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='L1Loss', loss_weight=1.0))
EXTRACTOR = dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0))
RCNN = dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False,
                  ignore_iof_thr=-1),
    sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
    pos_weight=-1, debug=False)
LEVELS = 4  # P3-P6 of the student [official code]


@MODELS.register_module()
class RCNNAssistant(nn.Module):
    """The box head of a Faster R-CNN on the student's first levels.

    Args:
        num_classes: Classes of the student.
        in_channels: Width of the student's neck.
        strides: Strides of the levels that it reads.
        bbox_head: Box head with shared fully connected layers; None for mmdet's of two layers of 1024. Its
            ``in_channels`` may differ from the student's: a 1x1 convolution stands before it then. (The published
            pairs have 256 on both sides.)
        bbox_roi_extractor: RoI extractor; its strides and width are set here. None for RoIAlign 7x7.
        rcnn: ``train_cfg.rcnn`` of a Faster R-CNN: assigner, sampler and ``pos_weight``. None for mmdet's: 512 boxes, a
            quarter of them positive.

    Raises:
        DistillError: If the box head has no shared fully connected layers.
    """

    def __init__(self, num_classes: int, in_channels: int, strides: Sequence[int], bbox_head: dict | None = None,
                 bbox_roi_extractor: dict | None = None, rcnn: dict | None = None) -> None:
        super().__init__()
        head = dict(copy.deepcopy(bbox_head or BBOX_HEAD), num_classes=num_classes, _scope_='mmdet')
        width = head.setdefault('in_channels', in_channels)
        extractor = copy.deepcopy(bbox_roi_extractor or EXTRACTOR)
        self.rcnn = ConfigDict(copy.deepcopy(rcnn or RCNN))
        self.bbox_roi_extractor = MODELS.build(dict(extractor, out_channels=width, featmap_strides=list(strides),
                                                    _scope_='mmdet'))
        self.bbox_head = MODELS.build(head)
        if getattr(self.bbox_head, 'num_shared_fcs', 0) < 1:
            raise DistillError(f'the assistant shares its fully connected features with the teacher, but '
                               f'{type(self.bbox_head).__name__} has no shared_fcs; use Shared2FCBBoxHead')
        self.bbox_head.init_weights()
        self.widen = nn.Conv2d(in_channels, width, 1) if width != in_channels else nn.Identity()
        self.hidden = Taps(self.bbox_head, ['relu'], 'assistant')

    def forward(self, levels: Sequence[Tensor], sampled: Sampled) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Train on sampled boxes.

        Args:
            levels: Neck levels of the student (B, C, H, W); those beyond ``strides`` are not read.
            sampled: Boxes.

        Returns:
            mmdet's losses of the box head, and the features (N, D) after each shared layer and its ReLU.
        """
        levels = [self.widen(level) for level in levels[:self.bbox_roi_extractor.num_inputs]]
        with self.hidden.recording(self.bbox_head) as record:
            scores, deltas = self.bbox_head(self.bbox_roi_extractor(levels, sampled.rois))
        losses = self.bbox_head.loss_and_target(scores, deltas, sampled.rois, sampled.results, self.rcnn)['loss_bbox']
        if not len(sampled.rois):
            losses = dict(loss_cls=nothing(self), loss_bbox=nothing(self))
        return losses, record['relu'][:self.bbox_head.num_shared_fcs]

    def copy_from(self, bbox_head: nn.Module) -> None:
        """Start from the weights of a teacher's box head.

        Raises:
            DistillError: If they do not fit.
        """
        own, theirs = self.bbox_head.state_dict(), bbox_head.state_dict()
        wrong = [f'{key} {tuple(own[key].shape) if key in own else "absent"} against '
                 f'{tuple(theirs[key].shape) if key in theirs else "absent"}' for key in {**own, **theirs}
                 if key not in own or key not in theirs or own[key].shape != theirs[key].shape]
        if wrong:
            raise DistillError("the assistant cannot start from the teacher's box head, as classes or layers differ: "
                               f'{"; ".join(wrong[:3])}{" ..." if len(wrong) > 3 else ""}. Take a teacher of the '
                               "student's classes, or say distill = dict(transfer=False)")
        self.bbox_head.load_state_dict(theirs)


@MODELS.register_module()
class DenseAssistant(nn.Module):
    """A single-stage head on all levels of the student, FCOS unless said otherwise.

    Args:
        num_classes: Classes of the student.
        in_channels: Width of the student's neck.
        strides: Strides of its levels.
        bbox_head: A dense head; classes, width and, for FCOS, strides and ranges are set here. None for FCOS as mmdet
            has it, with group norm in groups of eight channels and centre sampling.
        train_cfg: ``train_cfg`` of the head, where it needs one (assigner; FCOS has none).

    Raises:
        DistillError: If the head has no class convolution to read.
    """

    def __init__(self, num_classes: int, in_channels: int, strides: Sequence[int], bbox_head: dict | None = None,
                 train_cfg: dict | None = None) -> None:
        super().__init__()
        head = copy.deepcopy(bbox_head) or dict(type='FCOSHead', center_sampling=True, norm_on_bbox=True,
                                                centerness_on_reg=True)
        head |= dict(num_classes=num_classes, in_channels=in_channels)
        if head['type'] == 'FCOSHead':
            ends = [8 * stride for stride in strides[:-1]]  # objects of 4 to 8 strides a level, as in FCOS
            head.setdefault('strides', list(strides))
            head.setdefault('regress_ranges', list(zip([-1, *ends], [*ends, 1e8])))
            width = head.setdefault('feat_channels', in_channels)
            head.setdefault('norm_cfg', dict(type='GN', num_groups=max(width // 8, 1)))
        self.bbox_head = MODELS.build(dict(head, train_cfg=train_cfg and ConfigDict(train_cfg), _scope_='mmdet'))
        if 'tower' not in preset(self):
            raise DistillError(f'an assistant of type {type(self.bbox_head).__name__} has no class convolution to '
                               'read; use FCOSHead, RetinaHead, ATSSHead or GFLHead')
        self.bbox_head.init_weights()
        self.tower = preset(self)['tower']
        self.hidden = Taps(self, [self.tower], 'assistant')

    def forward(self, levels: Sequence[Tensor], samples: Sequence) -> tuple[dict[str, Any], list[Tensor]]:
        """Train on all predictions.

        Args:
            levels: Neck levels of the student (B, C, H, W).
            samples: Data samples with ground truths.

        Returns:
            mmdet's losses of the head, and what its class convolution read, (B, C, H, W) a level.
        """
        with self.hidden.recording(self) as record:
            losses = self.bbox_head.loss(tuple(levels), samples)
        return losses, record[self.tower]


def total(losses: dict[str, Any]) -> Tensor:
    """Sum of all losses of a head, as mmengine sums them; levels may be lists."""
    return sum(sum(value) if isinstance(value, list) else value for key, value in losses.items() if 'loss' in key)


def nothing(module: nn.Module) -> Tensor:
    """0, with every parameter in its graph, for steps without a box."""
    return sum((parameter * 0.).sum() for parameter in module.parameters())


def site(head: nn.Module, levels: Sequence[Tensor], limit: int | None = None) -> dict[str, Any]:
    """What an assistant has to know of the student: classes, width and strides.

    Args:
        head: The student's dense head.
        levels: Its neck levels.
        limit: Levels at most.
    """
    strides = [stride if isinstance(stride, int) else stride[0] for stride in head.prior_generator.strides][:limit]
    return dict(num_classes=head.num_classes, in_channels=levels[0].shape[1], strides=strides)


def mse(link: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error after a connector; exactly 0 where there are no rows."""
    if not student.numel():
        return nothing(link)
    return torch.nn.functional.mse_loss(link(student, teacher), teacher)
