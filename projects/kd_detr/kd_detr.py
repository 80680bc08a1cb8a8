"""KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points Sampling, CVPR 2024,
https://arxiv.org/abs/2211.08071.

Official code: https://github.com/wennyuhey/KD-DETR (DAB-DETR only).
Licence note: the release has no licence; written anew from its facts, nothing was taken over.
Differences: all points share one decoder pass; Deformable DETR and DINO are our extension; weights that are all 0 give
a loss of 0 instead of NaN.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmpapers.distill import Distiller, Seen
from mmpapers.distill.errors import DistillError
from mmpapers.distill.presets import family, uses_sigmoid
from mmpapers.distill.taps import Record
from mmpapers.layers import decoder_points
from mmpapers.layers.decoder_points import Decoded, decoding
from mmpapers.layers.query_sets import MODES
from mmpapers.registry import MODELS

POINTS = ('general', 'specific', 'matched')
_PARTS = dict(cls=1., bbox=5., iou=2.)  # Myleswork/KD-DETR@e7dfccb models/DAB_DETR/kd_loss.py:57-66
_EPS = 1e-12  # of areas; mmdet's 1e-6 is made for pixels: it is the area of one pixel in normalised coordinates


@MODELS.register_module()
class KDDETR(Distiller):
    """Distil a DETR at points that teacher and student share.

    A DETR's queries are its own, so two detectors' outputs cannot be compared query by query. Here both decode the same
    points beside their queries: *general* points, drawn anew in every step, and *specific* points, in which the
    teacher's own queries begin. The teacher's last layer supervises every layer of the student, each point by the
    teacher's confidence in it.

    Args:
        points: Which points: ``'general'``, ``'specific'``, both (as released), or ``'matched'``: the ablation baseline
            without shared points, which pairs the student's own queries with the teacher's by Hungarian matching.
        num_general: General points a step; 300 in the release (``tools/train.sh``).
        distribution: ``'logit_normal'`` as released (a standard normal before the sigmoid, dense in the centre) or
            ``'uniform'`` in the unit cube, as the paper's text says.
        temperature: Of the class term; 10 in the release.
        classes: ``'softmax'`` over classes, as released, or ``'sigmoid'``: each class a probability of its own.
        avg_factor: What divides the class term: ``'none'`` as released (a weighted sum over images and points, so it
            grows with both), ``'weights'`` (as box terms) or ``'points'``.
        attention: ``'fold'`` or ``'mask'``, see :func:`~mmpapers.layers.query_sets.separated`.
        **kwargs: Of :class:`~mmpapers.distill.Distiller`.

    Terms: ``<points>_cls``, ``<points>_bbox`` and ``<points>_iou``, weights 1, 5 and 2 as released.

    Raises:
        DistillError: If a model cannot decode points, classes differ in number, or a setting is wrong.
    """

    roles: ClassVar[dict[str, str | None]] = dict(outputs=None)

    def __init__(self, *args: Any, points: str | Sequence[str] = ('general', 'specific'), num_general: int = 300,
                 distribution: str = 'logit_normal', temperature: float = 10., classes: str = 'softmax',
                 avg_factor: str = 'none', attention: str = 'fold', **kwargs: Any) -> None:
        self.points = (points,) if isinstance(points, str) else tuple(points)
        unknown = [name for name in self.points if name not in POINTS]
        if unknown or not self.points:
            raise DistillError(f'distill.points={points!r}; choose from {", ".join(POINTS)}')
        for key, value, known in (('distribution', distribution, ('logit_normal', 'uniform')),
                                  ('classes', classes, ('softmax', 'sigmoid')),
                                  ('avg_factor', avg_factor, ('none', 'weights', 'points')),
                                  ('attention', attention, MODES)):
            if value not in known:
                raise DistillError(f'distill.{key}={value!r}; choose from {", ".join(known)}')
        if 'general' in self.points and num_general < 1:
            raise DistillError(f'distill.num_general={num_general} must be 1 or more')
        if temperature <= 0:
            raise DistillError(f'distill.temperature={temperature} must be positive')
        self.num_general = num_general
        self.distribution = distribution
        self.temperature = temperature
        self.classes = classes
        self.avg_factor = avg_factor
        self.point_attention = attention
        self._decoded: tuple[Decoded, Decoded] | None = None  # of teacher and student, during a step
        self.weights = {f'{name}_{part}': value for name in self.points for part, value in _PARTS.items()}
        super().__init__(*args, **kwargs)

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Refuse pairs that cannot be compared."""
        models = dict(student=self, teacher=self.teacher.model)
        for owner, model in models.items():
            if family(model) != 'query' or isinstance(model, decoder_points.OTHERS):
                raise DistillError(f'the {owner} is no DETR that KD-DETR knows; it takes DAB-DETR, Deformable DETR and '
                                   "DINO, and with distill.points='matched' also DETR and Conditional DETR")
        own, theirs = student['outputs'][0].shape[-1], teacher['outputs'][0].shape[-1]
        if own != theirs:
            raise DistillError(f'the student has {own} class outputs and the teacher {theirs}; KD-DETR compares them '
                               'one by one: give a teacher that was trained on the same classes')
        if own == 1 and self.classes == 'softmax':
            raise DistillError("with a single class a softmax over classes is always 1: set distill.classes='sigmoid'")
        for owner, model in models.items():
            if self._decodes(owner):
                try:
                    decoder_points.family(model)
                except TypeError as error:
                    raise DistillError(f"the {owner} {error}. distill.points='matched' works without") from error

    def _decodes(self, owner: str) -> bool:
        """Whether a model decodes points that are not its own."""
        return 'general' in self.points or (owner == 'student' and 'specific' in self.points)

    def teacher_listeners(self) -> list[contextlib.AbstractContextManager]:
        """Draw this step's general points and let the teacher decode them."""
        self._decoded = Decoded(), Decoded()
        self._general = dict(general=self.draw()) if 'general' in self.points else {}
        return [decoding(self.teacher.model, self._general, self.point_attention, into=self._decoded[0])]

    def listeners(self, record: Record) -> list[contextlib.AbstractContextManager]:
        """Let the student decode the same points, and those in which the teacher's queries began."""
        teacher, student = self._decoded
        points = dict(self._general)
        if 'specific' in self.points:
            points['specific'] = teacher.anchors
            if teacher.anchors is None:  # one-stage Deformable DETR begins with centres only
                points['specific'] = record[self.taps_of['teacher']['outputs']][1][-1].detach()
        return [decoding(self, points, self.point_attention, own='matched' in self.points, into=student)]

    def draw(self) -> Tensor:
        """General points of this step (num_general, 4) as (cx, cy, w, h), the same for all images and both models."""
        shape = (self.num_general, 4)
        if self.distribution == 'uniform':
            drawn = torch.rand(shape, generator=self.generator)
        else:
            drawn = torch.randn(shape, generator=self.generator).sigmoid()
        return drawn.to(next(self.parameters()).device)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Class, L1 and GIoU terms of each kind of points, summed over the student's decoder layers."""
        decoded_teacher, decoded_student = self._decoded
        self._decoded = None  # no graph outlives its step
        theirs = [value[-1] for value in seen.teacher['outputs']]
        terms = {}
        for name in self.points:
            if name == 'matched':
                student, teacher = self._match([value.float() for value in decoded_student.own], theirs)
            else:
                student = [value.float() for value in decoded_student.outputs[name]]
                teacher = theirs
                if name == 'general':
                    teacher = [value[-1].float() for value in decoded_teacher.outputs[name]]
            terms.update({f'{name}_{part}': value for part, value in self.distance(*student, *teacher).items()})
        return terms

    def distance(self, scores: Tensor, boxes: Tensor, teacher_scores: Tensor, teacher_boxes: Tensor
                 ) -> dict[str, Tensor]:
        """How far the student's layers are from the teacher at the same points.

        Args:
            scores: The student's class logits (layers, B, N, C).
            boxes: Its boxes (layers, B, N, 4) as (cx, cy, w, h) in [0, 1].
            teacher_scores: The teacher's class logits (B, N, C), or (layers, B, N, C) where each layer has its own.
            teacher_boxes: Its boxes, likewise.

        Returns:
            ``cls``: T^2 times the mean over classes of KL, weighted and summed over points; ``bbox``: mean absolute
            difference, and ``iou``: 1 - GIoU, both weighted means over points. Sums over layers.
        """
        teacher_scores, teacher_boxes = teacher_scores.expand_as(scores), teacher_boxes.expand_as(boxes)
        weight = self.foreground(teacher_scores)  # (layers, B, N)
        total = weight.flatten(1).sum(1)  # (layers,)
        divisor = total.where(total > 0, total.new_ones(()))
        kl = (weight * self._divergence(scores, teacher_scores)).flatten(1).sum(1)
        if self.avg_factor == 'weights':
            kl = kl / divisor
        elif self.avg_factor == 'points':
            kl = kl / max(weight[0].numel(), 1)
        l1 = (weight * (boxes - teacher_boxes).abs().mean(-1)).flatten(1).sum(1) / divisor
        giou = bbox_overlaps(bbox_cxcywh_to_xyxy(boxes).reshape(-1, 4),
                             bbox_cxcywh_to_xyxy(teacher_boxes).reshape(-1, 4), 'giou', is_aligned=True, eps=_EPS)
        iou = (weight * (1 - giou.view_as(weight))).flatten(1).sum(1) / divisor
        return dict(cls=kl.sum(), bbox=l1.sum(), iou=iou.sum())

    def foreground(self, scores: Tensor) -> Tensor:
        """The teacher's confidence in each point, (..., C) to (...): the largest class probability."""
        if uses_sigmoid(self.teacher.model):
            return scores.sigmoid().amax(-1)
        return scores.softmax(-1)[..., :-1].amax(-1)

    def _divergence(self, scores: Tensor, teacher: Tensor) -> Tensor:
        """T^2 times KL from teacher to student at each point, mean over classes."""
        scores, teacher = scores / self.temperature, teacher / self.temperature
        if self.classes == 'softmax':
            log, target = scores.log_softmax(-1), teacher.log_softmax(-1)
            kl = target.exp() * (target - log)
        else:
            kl = sum(F.logsigmoid(sign * teacher).exp() * (F.logsigmoid(sign * teacher) - F.logsigmoid(sign * scores))
                     for sign in (1, -1))
        return kl.mean(-1) * self.temperature**2

    def _match(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Pairs of own queries, by class (cross entropy, 2), L1 (5) and GIoU (2), in every layer of the student.

        Returns:
            Scores and boxes of the student and of the teacher, (layers, B, pairs, ...).
        """
        scores, boxes = student
        layers, batch, own = scores.shape[:3]
        rows, columns = [], []
        with torch.no_grad():
            costs = torch.stack([_cost(scores[:, image], boxes[:, image], teacher[0][image], teacher[1][image])
                                 for image in range(batch)], 1).cpu().numpy()
        for cost in costs.reshape(layers * batch, own, -1):
            row, column = linear_sum_assignment(cost)
            rows.append(torch.from_numpy(row))
            columns.append(torch.from_numpy(column))
        place = [torch.stack(index).view(layers, batch, -1).to(scores.device) for index in (rows, columns)]
        theirs = [value.expand(layers, *value.shape) for value in teacher]
        return ([_rows(value, place[0]) for value in student], [_rows(value, place[1]) for value in theirs])


def _cost(scores: Tensor, boxes: Tensor, teacher_scores: Tensor, teacher_boxes: Tensor) -> Tensor:
    """Costs (layers, N, M) between one image's queries of the student and of the teacher."""
    entropy = -(scores.log_softmax(-1) @ teacher_scores.softmax(-1).T)
    l1 = torch.cdist(boxes, teacher_boxes.expand(len(boxes), -1, -1), p=1)
    giou = bbox_overlaps(bbox_cxcywh_to_xyxy(boxes).flatten(0, 1), bbox_cxcywh_to_xyxy(teacher_boxes), 'giou', eps=_EPS)
    return 2 * entropy + 5 * l1 - 2 * giou.view_as(l1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (layers, B, pairs) of values (layers, B, N, C)."""
    return values.gather(2, index[..., None].expand(*index.shape, values.shape[-1]))
