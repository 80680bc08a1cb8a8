"""Distillation of class scores with a temperature."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.distill.presets import uses_sigmoid
from mmpapers.registry import MODELS


def softmax_divergence(pairs: Iterable[tuple[Tensor, Tensor]], tau: float) -> Tensor:
    """Kullback-Leibler divergence between softmaxes over classes.

    Args:
        pairs: Logits of student and teacher, (N, C) or (B, C, H, W).
        tau: Temperature.

    Returns:
        Scalar, the mean over rows or pixels of all pairs.
    """
    total, rows = 0., 0
    for student, teacher in pairs:
        ours, theirs = (F.log_softmax(logits / tau, dim=1) for logits in (student, teacher))
        total = total + F.kl_div(ours, theirs, reduction='sum', log_target=True)
        rows += student[:, 0].numel()
    return total / max(rows, 1)


def sigmoid_divergence(pairs: Iterable[tuple[Tensor, Tensor]], tau: float) -> Tensor:
    """Kullback-Leibler divergence between sigmoids, one two-way decision an entry.

    Args:
        pairs: Logits of student and teacher of any equal shapes.
        tau: Temperature.

    Returns:
        Scalar: the sum over all entries divided by the sum of the teacher's scores (at least 1), which stands for the
        number of objects as positive samples do in detection losses. This divisor is ours.
    """
    total, objects = 0., 0.
    for student, teacher in pairs:
        ours, theirs = student / tau, teacher / tau
        target = theirs.sigmoid()
        total = total + (target * (F.logsigmoid(theirs) - F.logsigmoid(ours))
                         + (1 - target) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))).sum()
        objects = objects + teacher.sigmoid().sum()
    return total / torch.as_tensor(objects).clamp(min=1.)


@MODELS.register_module()
class KLDistill(Distiller):
    """Kullback-Leibler divergence between the class scores of both models.

    Distilling the Knowledge in a Neural Network (Hinton et al., 2015, arXiv 1503.02531). Segmentors, box heads and
    classifiers: softmax, mean over pixels or rows; dense detection heads: sigmoid, see :func:`sigmoid_divergence`.

    Args:
        tau: Temperature: 1 is usual for segmentation, 4 for classification.
        tau_squared: Whether the term is multiplied by ``tau^2``, which keeps gradients of the same size.
        activation: ``'softmax'``, ``'sigmoid'``, or ``'auto'``: what the student's own classification loss uses.
        **kwargs: See :class:`~mmpapers.distill.Distiller`.
    """

    roles: ClassVar = dict(logits='identity')
    weights: ClassVar = dict(kl=1.)

    def __init__(self, *args: Any, tau: float = 1., tau_squared: bool = True, activation: str = 'auto',
                 **kwargs: Any) -> None:
        if activation == 'auto':
            activation = 'sigmoid' if uses_sigmoid(self) else 'softmax'
        if activation not in ('softmax', 'sigmoid'):
            raise DistillError(f"distill.activation={activation!r}: choose 'auto', 'softmax' or 'sigmoid'")
        self.tau, self.factor = tau, tau**2 if tau_squared else 1.
        self.divergence = sigmoid_divergence if activation == 'sigmoid' else softmax_divergence
        super().__init__(*args, **kwargs)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Compute the divergence over all levels at once."""
        return dict(kl=self.factor * self.divergence(seen.pairs('logits'), self.tau))
