"""The loss between perceptual and conceptual maps, and what weighs it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.registry import MODELS


def cells(feature: Tensor, mask: Tensor) -> Tensor:
    """The cells of a map (B, C, H, W) where a mask (B, 1, H, W) is not 0, as rows (K, C)."""
    return feature.permute(0, 2, 3, 1)[mask.squeeze(1) != 0]


@MODELS.register_module()
class InformativeReweight(nn.Module):
    """Spatial times channel attention on where the twin knows more.

    ``weight = 1 + s c``, divided by its mean over the mask, with ``s = sigmoid(conv7x7([mean_c |F_c - F_p|,
    max_c |F_c - F_p|]))`` and ``c`` two fully connected layers with a sigmoid on the mean of ``F_c`` over the sample's
    mask. So all weights have mean 1, none is twice another, and shrinking them gains nothing. No gradient reaches the
    maps through them. The paper names such a module; its structure is our choice, no code of it was released.

    Args:
        channels: Channels C of the maps.
        reduction: How much narrower the layer between is.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Weigh the cells of the mask.

        Args:
            student: Perceptual map F_p (B, C, H, W).
            teacher: Conceptual map F_c (B, C, H, W).
            mask: (B, 1, H, W).

        Returns:
            (K, C), a row for each cell whose mask is not 0, with mean 1.
        """
        inside = mask != 0
        difference = (teacher - student).abs().detach()
        spatial = self.spatial(torch.cat([difference.mean(1, True), difference.amax(1, True)], 1)).sigmoid()
        known = (teacher.detach() * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        channel = self.channel(known).sigmoid()
        weight = 1 + cells(spatial, mask) * channel[inside.squeeze(1).nonzero()[:, 0]]
        return weight * (weight.numel() / weight.sum().clamp(min=1))


@MODELS.register_module()
class AssociationLoss(nn.Module):
    """``sum w SmoothL1(m F_p, m F_c) / #{m != 0}``: cells are averaged, channels are summed.

    Without weights this is the loss of pcdet/models/detectors/pointpillar.py of github.com/dleam/Associate-3Ddet-V2 at
    85f19a6. No gradient reaches the conceptual map.

    Args:
        channels: Channels C of the maps for :class:`InformativeReweight`; None for ``w = 1``.
        beta: Where SmoothL1 turns from squares to absolute values.
    """

    def __init__(self, channels: int | None = None, beta: float = 1.) -> None:
        super().__init__()
        self.beta = beta
        self.reweight = None if channels is None else InformativeReweight(channels)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student: Perceptual map F_p (B, C, H, W).
            teacher: Conceptual map F_c (B, C, H, W).
            mask: (B, 1, H, W); may be soft.

        Returns:
            Scalar; 0 where the mask is 0 everywhere.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if student.shape != teacher.shape or mask.shape != (len(student), 1, *student.shape[-2:]):
            raise ValueError(f'AssociationLoss takes two maps (B, C, H, W) of one shape and a mask (B, 1, H, W), not '
                             f'{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(mask.shape)}')
        teacher, factor = teacher.detach(), cells(mask, mask)
        error = F.smooth_l1_loss(factor * cells(student, mask), factor * cells(teacher, mask), reduction='none',
                                 beta=self.beta)
        if self.reweight is not None:
            error = error * self.reweight(student, teacher, mask)
        return error.sum() / max(len(factor), 1)
