"""The loss of MasKD's second stage (header and differences: ``masks.py``)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmpapers.registry import MODELS

from .masks import ReceptiveTokenMask


@MODELS.register_module()
class MasKDLoss(nn.Module):
    """Squared error between student and teacher under each mask, per mask relative to the mask's area.

    For each level ``l[n, t] = sum_hw M^2 mean_c (F_s - F_t)^2 / (sum_hw M + eps)``; both maps are masked, hence the
    square above. Tokens then count by their weights (or alike), images alike, and levels are summed. Masks come from
    the teacher's map; "customised" ones are multiplied by those of the student's map. Masks are never trained here.

    Args:
        channels: Channels of the teacher's maps, one number a level.
        num_tokens: Masks a level.
        token_weights: See :class:`ReceptiveTokenMask`.
        eps: Added to the area of a mask. The official code adds nothing for detectors, where a product of two masks can
            be empty, and 1e-5 for segmentors.
        factor: Factor on the loss; 0.5 in the official code for segmentors.
    """

    def __init__(self, channels: Sequence[int], num_tokens: int = 6, token_weights: bool = True, eps: float = 1e-6,
                 factor: float = 1.) -> None:
        super().__init__()
        self.masks = nn.ModuleList(ReceptiveTokenMask(width, num_tokens, token_weights) for width in channels)
        self.masks.requires_grad_(False)
        self.eps = eps
        self.factor = factor
        self.register_buffer('learned', torch.tensor(False))

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor], customise: bool = False) -> Tensor:
        """Compute the loss.

        Args:
            students: Student's maps, each (N, C, H, W), aligned to the teacher's channels.
            teachers: Teacher's maps, each (N, C, H, W).
            customise: Whether masks of the student's maps multiply those of the teacher's.

        Returns:
            Scalar, in float32 under autocast too.
        """
        return self.factor * sum(self.level(mask, student, teacher, customise) for mask, student, teacher
                                 in zip(self.masks, students, teachers, strict=True))

    def level(self, mask: ReceptiveTokenMask, student: Tensor, teacher: Tensor, customise: bool) -> Tensor:
        """The loss of one level; arguments as in :meth:`forward`."""
        with torch.autocast(student.device.type, enabled=False):
            with torch.no_grad():
                masks, weights = mask(teacher), mask.weights(teacher)  # (N, T, H, W), (N, T)
                if customise:
                    masks = masks * mask(student)
                areas = masks.sum((2, 3)) + self.eps
                if weights is None:
                    weights = torch.full_like(areas, 1 / areas.shape[1])
                shares = torch.einsum('nt,nthw->nhw', weights / areas, masks**2)
            error = (student.to(shares.dtype) - teacher.to(shares.dtype)).square().mean(1)  # (N, H, W)
            return (shares * error).sum((1, 2)).mean()
