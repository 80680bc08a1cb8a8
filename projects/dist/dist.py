"""DIST for dense and two-stage detectors, segmentors and voxel detectors."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.distill.presets import uses_sigmoid
from mmpapers.registry import MODELS

from .loss import DISTLoss


@MODELS.register_module()
class DIST(Distiller):
    """Knowledge distillation from a stronger teacher, for class scores of every family.

    Dense heads: each level's map (sigmoid), summed over levels. Two-stage heads: ``fc_cls`` of both models on the
    student's sampled boxes (softmax, background included). Segmentors: logits at the head's own stride (softmax), and
    those of the first auxiliary head with 0.4. Huang et al., NeurIPS 2022, arXiv 2205.10536.

    Args:
        loss: Arguments of :class:`~mmpapers.projects.dist.loss.DISTLoss`; ``activation`` follows the student's own
            classification loss where it is left out.
        mimic: Weight of the mean squared error between neck levels after a 1x1 convolution ("DIST + mimic", there 1);
            0 leaves it out.
        valid: Samples that count: None for all, as published; ``'labels'`` for pixels whose label is not ignored
            (segmentors); a number for positions where the teacher's highest sigmoid score exceeds it (dense heads).
        **kwargs: See :class:`~mmpapers.distill.Distiller`. Terms are ``dist``, ``dist_auxiliary`` and ``mimic``.

    Raises:
        DistillError: If ``valid`` does not suit the student, or the classes of both models differ.
    """

    roles: ClassVar = dict(logits='identity', auxiliary='identity', features='conv')
    optional_roles: ClassVar = frozenset({'auxiliary'})
    weights: ClassVar = dict(dist=1., dist_auxiliary=.4, mimic=1.)

    def __init__(self, *args: Any, loss: dict | None = None, mimic: Any = 0., valid: str | float | None = None,
                 **kwargs: Any) -> None:
        if mimic:
            self.weights = {**DIST.weights, 'mimic': mimic}
        else:
            self.roles = {role: kind for role, kind in DIST.roles.items() if role != 'features'}
            self.weights = {term: weight for term, weight in DIST.weights.items() if term != 'mimic'}
        super().__init__(*args, **kwargs)
        if 'auxiliary' not in self.taps_of['student']:
            self.weights = {term: weight for term, weight in self.weights.items() if term != 'dist_auxiliary'}
            self.term_weights.pop('dist_auxiliary', None)
        settings = dict(activation='sigmoid' if uses_sigmoid(self) else 'softmax') | (loss or {})
        self.helpers['loss'] = DISTLoss(**settings)
        self.valid = valid
        number = isinstance(valid, float | int) and settings['activation'] == 'sigmoid'
        if not (valid is None or number or (valid == 'labels' and hasattr(self, 'decode_head'))):
            raise DistillError(f"distill.valid={valid!r}: write 'labels' for a segmentor, or for a dense detection "
                               'head the least sigmoid score of a position')

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Sum the loss over the levels of each role."""
        terms = dict(dist=self._relations(seen, 'logits'))
        if 'dist_auxiliary' in self.weights:
            terms['dist_auxiliary'] = self._relations(seen, 'auxiliary')
        if 'mimic' in self.weights:
            terms['mimic'] = sum(F.mse_loss(student, teacher) for student, teacher in seen.pairs('features'))
        return terms

    def _relations(self, seen: Seen, role: str) -> Tensor:
        return sum(self.helpers['loss'](student, teacher, self._valid(seen, teacher))
                   for student, teacher in seen.pairs(role))

    def _valid(self, seen: Seen, teacher: Tensor) -> Tensor | None:
        """Boolean (B, H, W), or None for all."""
        if self.valid is None:
            return None
        if self.valid == 'labels':
            labels = torch.stack([sample.gt_sem_seg.data for sample in seen.samples]).to(teacher)
            head = self.decode_head[-1] if isinstance(self.decode_head, nn.ModuleList) else self.decode_head
            return F.interpolate(labels, teacher.shape[-2:]).squeeze(1) != head.ignore_index
        return teacher.sigmoid().amax(1) > self.valid
