r"""Focal loss on logits (sigmoid) and on probabilities (softmax) (Lin et al., ICCV 2017).

mmcv 2.1.0 has these for CUDA only; plain torch serves every device. Differences: the sigmoid form uses log-sigmoids,
where mmcv's kernel takes :math:`\log(1-p)` of a rounded p and jumps to 87 for logits above 17; a class weight of the
background (a target that is no class) is 1, where mmcv reads past the end of the weights.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ._numba import widen

_TINY = torch.finfo(torch.float32).tiny  # mmcv's floor under a logarithm


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Write the loss of every logit to ``output``.

    Args:
        input: (N, C) logits.
        target: (N,) int64 classes; anything outside 0 .. C - 1 is background.
        weight: (C,) factor for the rows of each class, or empty.
        output: (N, C), written in place.
        gamma: Exponent that plays down the easy ones.
        alpha: Weight of positives; negatives get ``1 - alpha``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    positive, scale = _sigmoid_terms(input, target, weight, alpha)
    sign = 1 - 2 * positive
    x = widen(input) * sign  # positive where wrong
    output.copy_(-scale * x.sigmoid().pow(gamma) * functional.logsigmoid(-x))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Write the derivative of every loss by its logit to ``grad_input``, (N, C).

    Args:
        input: As in :func:`sigmoid_focal_loss_forward`, like the other arguments.
        target: (N,) int64.
        weight: (C,) or empty.
        grad_input: (N, C), written in place.
        gamma: Exponent.
        alpha: Weight of positives.
    """
    positive, scale = _sigmoid_terms(input, target, weight, alpha)
    sign = 1 - 2 * positive
    x = widen(input) * sign
    wrong = x.sigmoid()
    slope = wrong.pow(gamma) * (wrong - gamma * (-x).sigmoid() * functional.logsigmoid(-x))
    grad_input.copy_(scale * sign * slope)


def softmax_focal_loss_forward(softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Write the loss of every row to ``output``.

    Args:
        softmax: (N, C) probabilities.
        target: (N,) int64 classes; negative ones are ignored and cost 0.
        weight: (C,) factor for each class, or empty.
        output: (N,), written in place.
        gamma: Exponent that plays down the easy ones.
        alpha: Weight of all rows.

    Raises:
        ValueError: If the shapes do not fit or a target is C or more.
    """
    p, scale = _softmax_terms(softmax, target, weight, alpha)
    output.copy_(-scale * (1 - p).pow(gamma) * p.clamp(min=_TINY).log())


def softmax_focal_loss_backward(softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor,
                                gamma: float, alpha: float) -> None:
    """Write the derivatives of the losses by the logits under the softmax to ``grad_input``, (N, C).

    Args:
        softmax: As in :func:`softmax_focal_loss_forward`, like the other arguments.
        target: (N,) int64.
        weight: (C,) or empty.
        buff: (N,), written in place: the factor that all logits of a row share.
        grad_input: (N, C), written in place.
        gamma: Exponent.
        alpha: Weight of all rows.
    """
    p, scale = _softmax_terms(softmax, target, weight, alpha)
    wrong = 1 - p
    # gamma * wrong^(gamma - 1) * log(p) tends to 0 as p tends to 1, but is 0 * inf there for gamma < 1.
    steep = torch.where(wrong > 0, gamma * wrong.clamp(min=_TINY).pow(gamma - 1) * p * p.clamp(min=_TINY).log(), 0)
    factor = scale * (steep - wrong.pow(gamma))
    buff.copy_(factor)
    hit = torch.arange(softmax.shape[1], device=softmax.device) == target[:, None]
    grad_input.copy_(factor[:, None] * (hit.to(p.dtype) - widen(softmax)))


def _sigmoid_terms(logits: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Where the positives are, (N, C) of 0 and 1, and the factor of each entry, (N, C)."""
    _check('sigmoid_focal_loss', logits, target, weight)
    classes = torch.arange(logits.shape[1], device=logits.device)
    positive = (target[:, None] == classes).to(widen(logits).dtype)
    scale = positive * alpha + (1 - positive) * (1 - alpha)
    if weight.numel():
        known = (target >= 0) & (target < len(weight))
        scale = scale * torch.where(known, widen(weight)[target.clamp(0, len(weight) - 1)], 1)[:, None]
    return positive, scale


def _softmax_terms(softmax: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Probability of the target, (N,), and the factor of each row, (N,), 0 where it is ignored."""
    _check('softmax_focal_loss', softmax, target, weight)
    if len(target) and int(target.max()) >= softmax.shape[1]:
        raise ValueError(f'softmax_focal_loss: target {int(target.max())} is none of the {softmax.shape[1]} classes; '
                         'set num_classes of the head to the number in the annotations, use -1 for ignored rows')
    classes = target.clamp(min=0)
    p = widen(softmax).gather(1, classes[:, None])[:, 0]
    scale = (target >= 0).to(p.dtype) * alpha
    return p, scale * widen(weight)[classes] if weight.numel() else scale


def _check(op: str, scores: Tensor, target: Tensor, weight: Tensor) -> None:
    """Refuse shapes other than (N, C), (N,) and (C,) or none."""
    if scores.ndim != 2 or target.shape != scores.shape[:1] or weight.numel() not in (0, scores.shape[1]):
        raise ValueError(f'{op}: needs scores (N, C), target (N,) and weight (C,) or empty, but got '
                         f'{tuple(scores.shape)}, {tuple(target.shape)} and {tuple(weight.shape)}')
