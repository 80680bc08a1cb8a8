"""Distillation of features through Pearson correlation."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import Distiller, Seen
from mmpapers.distill.presets import family
from mmpapers.registry import MODELS


def standardise(maps: Tensor, eps: float = 1e-6) -> Tensor:
    """Give each channel of maps (B, C, H, W) mean 0 and standard deviation 1 over the batch and all positions."""
    mean = maps.mean((0, 2, 3), keepdim=True)
    return (maps - mean) / (maps.std((0, 2, 3), keepdim=True) + eps)


@MODELS.register_module()
class PKD(Distiller):
    """Half the mean squared error between standardised levels, which is 1 - Pearson correlation by channel.

    PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient (Cao et al., NeurIPS
    2022, arXiv 2207.02039). As in the released code (github.com/open-mmlab/mmrazor at 90c7af1) statistics are those of
    the batch on this device, the student's as well as the teacher's, with the unbiased standard deviation, and levels
    are summed. The released configs use the first four of five levels (``taps=dict(features='neck[:4]')``).

    Args:
        term_weights: By default 6 for two-stage students and 10 for all others, as in the released configs.
        **kwargs: See :class:`~mmpapers.distill.Distiller`.
    """

    roles: ClassVar = dict(features='auto')
    weights: ClassVar = dict(pkd=10.)

    def __init__(self, *args: Any, term_weights: dict[str, Any] | None = None, **kwargs: Any) -> None:
        weight = 6. if family(self) in ('two_stage', 'cascade') else self.weights['pkd']
        super().__init__(*args, term_weights=dict(pkd=weight) | (term_weights or {}), **kwargs)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Sum the error over levels."""
        return dict(pkd=sum(F.mse_loss(standardise(student), standardise(teacher)) / 2
                            for student, teacher in seen.pairs('features')))
