"""Set prediction of 3D boxes: one prediction for each object, found by Hungarian matching, and the losses that follow.

As in DETR and 3DETR (Misra et al., ICCV 2021, https://arxiv.org/abs/2109.08141; official code
https://github.com/facebookresearch/3detr, Apache-2.0, nothing is copied). All stages of a decoder are matched together:
the costs of a step go to the CPU in one transfer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmpapers.layers.overlaps3d import overlaps3d
from mmpapers.registry import MODELS, TASK_UTILS

_HUGE = 1e6  # stands for a cost that is not finite, which the matching could not take
_THINNEST = 1e-3  # metres; thinner objects have no useful logarithm


@dataclass(frozen=True)
class BoxQueries:
    """Predictions of one decoder stage, or of several in a row.

    Args:
        logits: (S, N, C + 1), the last is that of "no object".
        boxes: (S, N, 7), centre, sizes, yaw.
        dir_logits: (S, N, K), logits of K bins of yaw; ``None`` for boxes along the axes.
        dir_residuals: (S, N, K), yaw minus the bin's centre, in half bins.
    """

    logits: Tensor
    boxes: Tensor
    dir_logits: Tensor | None = None
    dir_residuals: Tensor | None = None

    @property
    def rotated(self) -> bool:
        """Whether boxes have a yaw."""
        return self.dir_logits is not None

    @classmethod
    def cat(cls, stages: 'Sequence[BoxQueries]') -> 'BoxQueries':
        """Put stages (B, ...) one after another, (T B, ...), in float32 at least."""
        names = ['logits', 'boxes'] + ['dir_logits', 'dir_residuals'] * stages[0].rotated
        joined = {name: torch.cat([getattr(stage, name) for stage in stages]) for name in names}
        return cls(**{name: value.to(torch.promote_types(value.dtype, torch.float32))
                      for name, value in joined.items()})


@dataclass(frozen=True)
class BoxTargets:
    """Objects of a batch, padded to the largest number of them.

    Args:
        boxes: (S, G, 7), centre, sizes, yaw.
        labels: (S, G); 0 for padding.
        counts: Objects of each of the S samples.
        scale: (S, 3), metres that centres, and sizes if so chosen, are divided by in costs and losses.
    """

    boxes: Tensor
    labels: Tensor
    counts: tuple[int, ...]
    scale: Tensor

    @classmethod
    def pad(cls, instances: Sequence[InstanceData], scale: Tensor) -> 'BoxTargets':
        """Collect ``bboxes_3d`` and ``labels_3d`` of B samples; objects with a negative label are left out.

        Args:
            instances: Objects of each sample.
            scale: (B, 3), see above; gives the device.
        """
        boxes, labels = [], []
        for each in instances:
            label, box = each.labels_3d.to(scale.device), each.bboxes_3d.to(scale.device)
            box = torch.cat([box.gravity_center, box.dims, box.yaw[:, None]], 1)
            boxes.append(box[label >= 0].to(scale.dtype))
            labels.append(label[label >= 0].long())
        return cls(pad_sequence(boxes, batch_first=True), pad_sequence(labels, batch_first=True),
                   tuple(map(len, labels)), scale)

    def repeat(self, stages: int) -> 'BoxTargets':
        """Say the same for each of several stages: (T B, ...)."""
        return BoxTargets(self.boxes.repeat(stages, 1, 1), self.labels.repeat(stages, 1), self.counts * stages,
                          self.scale.repeat(stages, 1))


@TASK_UTILS.register_module()
class SoftmaxCost3D:
    """Minus the probability of the object's class.

    Args:
        weight: Factor. 3DETR: 1.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, queries: BoxQueries, targets: BoxTargets) -> Tensor:
        """Give costs (S, N, G)."""
        probability = queries.logits.softmax(-1)
        labels = targets.labels[:, None].expand(-1, probability.shape[1], -1)
        return -self.weight * probability.gather(2, labels)


@TASK_UTILS.register_module()
class ObjectnessCost3D:
    """Minus the probability that there is an object of whatever class.

    Args:
        weight: Factor. 3DETR: 0 on ScanNet, 5 on SUN RGB-D.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, queries: BoxQueries, targets: BoxTargets) -> Tensor:
        """Give costs (S, N, G)."""
        objectness = 1 - queries.logits.softmax(-1)[..., -1:]
        return -self.weight * objectness.expand(-1, -1, targets.labels.shape[1])


@TASK_UTILS.register_module()
class CenterL1Cost:
    """L1 distance of the centres in units of the targets' scale.

    Args:
        weight: Factor. 3DETR: 0 on ScanNet, 5 on SUN RGB-D.
    """

    def __init__(self, weight: float = 5.0) -> None:
        self.weight = weight

    def __call__(self, queries: BoxQueries, targets: BoxTargets) -> Tensor:
        """Give costs (S, N, G)."""
        scale = targets.scale[:, None]
        return self.weight * torch.cdist(queries.boxes[..., :3] / scale, targets.boxes[..., :3] / scale, p=1)


@TASK_UTILS.register_module()
class IoU3DCost:
    """Minus the overlap of the boxes, turned if the predictions have a yaw.

    Args:
        weight: Factor. 3DETR: 2 on ScanNet, 3 on SUN RGB-D.
        giou: Generalized IoU; plain IoU does not tell near boxes from far ones.
    """

    def __init__(self, weight: float = 2.0, giou: bool = True) -> None:
        self.weight = weight
        self.giou = giou

    def __call__(self, queries: BoxQueries, targets: BoxTargets) -> Tensor:
        """Give costs (S, N, G)."""
        return -self.weight * overlaps3d(queries.boxes[:, :, None], targets.boxes[:, None], self.giou, queries.rotated)


@TASK_UTILS.register_module()
class HungarianAssigner3D:
    """Give each object the prediction that makes the sum of costs least; no prediction gets two.

    Args:
        costs: Configs of the costs to be added up, each called with :class:`BoxQueries` and :class:`BoxTargets`.
    """

    def __init__(self, costs: Sequence[dict]) -> None:
        if not costs:
            raise ValueError("HungarianAssigner3D: costs is empty; give one, e.g. [dict(type='mmpapers.IoU3DCost')]")
        self.costs = [TASK_UTILS.build(cost) for cost in costs]

    @torch.no_grad()
    def assign(self, queries: BoxQueries, targets: BoxTargets) -> Tensor:
        """Match.

        Costs that are not finite count as high ones: a run that diverges is stopped by its loss.

        Args:
            queries: S samples of N predictions.
            targets: Their objects.

        Returns:
            (S, N), index of the object, or -1; ``min(N, objects)`` of a sample are matched.
        """
        cost = sum(each(queries, targets) for each in self.costs)
        cost = torch.nan_to_num(cost.float(), nan=_HUGE, posinf=_HUGE, neginf=-_HUGE).cpu()
        matched = torch.full(cost.shape[:2], -1)
        for row, values, count in zip(matched, cost.numpy(), targets.counts):
            prediction, target = linear_sum_assignment(values[:, :count])
            row[torch.from_numpy(prediction)] = torch.from_numpy(target)
        return matched.to(queries.logits.device)


@MODELS.register_module()
class SetCriterion3D(nn.Module):
    """Losses of set prediction, for every stage of a decoder.

    Classification: cross-entropy over classes and "no object", a weighted mean over predictions. Of matched pairs, sums
    divided by the number of objects (averaged over processes): L1 of centres, L1 of sizes, overlap, and with a yaw
    cross-entropy of the bin and Huber loss of the residual in the right bin. Yaw learns from these two only.

    Args:
        assigner: Config of the assigner.
        weights: Factors of ``cls``, ``center``, ``size``, ``iou``, ``dir_cls`` and ``dir_res``, instead of 3DETR's 1,
            5, 1, 1, 0.1 and 0.5; a term of weight 0 is not computed.
        no_object_weight: Weight of "no object" in the cross-entropy. 3DETR: 0.25 on ScanNet, 0.1 on SUN RGB-D.
        giou: Whether the overlap is GIoU or IoU.
        log_size: Compare the logarithms of sizes; else sizes in units of the targets' scale, as 3DETR does.
    """

    def __init__(self, assigner: dict, weights: Mapping[str, float] | None = None, no_object_weight: float = 0.1,
                 giou: bool = True, log_size: bool = True) -> None:
        super().__init__()
        self.assigner = TASK_UTILS.build(assigner)
        self.weights = dict(cls=1.0, center=5.0, size=1.0, iou=1.0, dir_cls=0.1, dir_res=0.5)
        unknown = set(weights or {}) - set(self.weights)
        if unknown:
            raise ValueError(f'SetCriterion3D: weights has no {", ".join(sorted(unknown))}; it takes '
                             f'{", ".join(self.weights)}')
        self.weights.update(weights or {})
        self.no_object_weight = no_object_weight
        self.giou = giou
        self.log_size = log_size

    def forward(self, stages: Sequence[BoxQueries], targets: BoxTargets) -> dict[str, Tensor]:
        """Match all stages and compute their losses.

        Args:
            stages: Predictions of each stage, B samples each.
            targets: The B samples' objects.

        Returns:
            ``loss_cls``, ``loss_center``, ... of the last stage; those of earlier ones begin with ``d0.``, ``d1.``, ...

        Raises:
            ValueError: If a label is no class of the predictions.
        """
        classes = stages[0].logits.shape[-1] - 1
        if targets.labels.numel() and int(targets.labels.max()) >= classes:
            raise ValueError(f'a label is {int(targets.labels.max())}, but the head has {classes} classes; set '
                             'bbox_head.num_classes to the number of classes of the data set')
        queries = BoxQueries.cat(stages)
        targets = targets.repeat(len(stages))
        matched = self.assigner.assign(queries, targets)
        terms = self._losses(queries, targets, matched, len(stages))
        losses = {}
        for t in range(len(stages)):
            prefix = '' if t == len(stages) - 1 else f'd{t}.'
            losses |= {f'{prefix}loss_{name}': self.weights[name] * value[t] for name, value in terms.items()}
        return losses

    def _losses(self, queries: BoxQueries, targets: BoxTargets, matched: Tensor, stages: int) -> dict[str, Tensor]:
        """All terms without their weights, (T,) each."""
        terms = {'cls': self._classification(queries.logits, targets.labels, matched, stages)}
        sample, query = torch.nonzero(matched >= 0, as_tuple=True)
        target = matched[sample, query]
        found, truth = queries.boxes[sample, query], targets.boxes[sample, target]
        scale = targets.scale[sample]
        pairs = {'center': lambda: ((found[:, :3] - truth[:, :3]) / scale).abs().sum(-1),
                 'size': lambda: self._size_error(found[:, 3:6], truth[:, 3:6], scale),
                 'iou': lambda: 1 - overlaps3d(torch.cat([found[:, :6], found[:, 6:].detach()], 1), truth, self.giou,
                                               queries.rotated)}
        if queries.rotated:
            bin_, residual = yaw_bins(truth[:, 6], queries.dir_logits.shape[-1])
            pairs['dir_cls'] = lambda: F.cross_entropy(queries.dir_logits[sample, query], bin_, reduction='none')
            pairs['dir_res'] = lambda: F.huber_loss(queries.dir_residuals[sample, query, bin_], residual,
                                                    reduction='none')
        objects = queries.boxes.new_tensor(sum(targets.counts) / stages)
        objects = reduce_mean(objects).clamp(min=1)
        stage = sample // (len(matched) // stages)
        for name, error in pairs.items():
            if self.weights[name]:
                terms[name] = queries.boxes.new_zeros(stages).index_add(0, stage, error()) / objects
        return terms

    def _classification(self, logits: Tensor, labels: Tensor, matched: Tensor, stages: int) -> Tensor:
        """Weighted mean of the cross-entropy (T,)."""
        background = logits.shape[-1] - 1
        wanted = torch.full_like(matched, background)
        sample, query = torch.nonzero(matched >= 0, as_tuple=True)
        wanted[sample, query] = labels[sample, matched[sample, query]]
        weight = logits.new_ones(background + 1)
        weight[-1] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight, reduction='none')
        return loss.view(stages, -1).sum(1) / weight[wanted].view(stages, -1).sum(1)

    def _size_error(self, found: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
        """L1 error (P,) of sizes (P, 3)."""
        if self.log_size:
            return (found.clamp(min=_THINNEST).log() - truth.clamp(min=_THINNEST).log()).abs().sum(-1)
        return ((found - truth) / scale).abs().sum(-1)


def yaw_bins(yaw: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Say in which bin a yaw lies and where.

    Args:
        yaw: (...), radians.
        bins: Number of bins; bin i is centred at 2 pi i / bins.

    Returns:
        Bin (...) and the residual (...) in half bins, in [-1, 1).
    """
    place = (yaw / (2 * math.pi) * bins + 0.5) % bins
    bin_ = place.long().clamp(max=bins - 1)
    return bin_, 2 * (place - bin_) - 1


def yaw_of_bins(bin_: Tensor, residual: Tensor, bins: int) -> Tensor:
    """Inverse of :func:`yaw_bins`, in radians."""
    return (bin_ + residual / 2) * (2 * math.pi / bins)
