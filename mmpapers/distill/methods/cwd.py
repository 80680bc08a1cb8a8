"""Channel-wise distillation of maps."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.distill.presets import family
from mmpapers.registry import MODELS

# Temperature and weight. Logits: paper, and exp_cwd.sh of github.com/irfanICMLL/TorchDistiller at 78bac7c. Features of
# detectors: cwd_fpn_retina_r101_retina_r50_1x_coco.py of github.com/open-mmlab/mmrazor at 90c7af1.
_DEFAULTS = dict(logits=(4., 3.), features=(1., 10.))


def channel_divergence(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """``tau^2`` times the Kullback-Leibler divergence between channels, each read as a distribution over positions.

    Args:
        student: Maps (B, C, H, W).
        teacher: Maps (B, C, H, W).
        tau: Temperature of the softmax over H * W.

    Returns:
        Scalar, the mean over B * C.
    """
    ours, theirs = (F.log_softmax(maps.flatten(2).flatten(0, 1) / tau, dim=1) for maps in (student, teacher))
    return tau**2 * F.kl_div(ours, theirs, reduction='batchmean', log_target=True)


@MODELS.register_module()
class CWD(Distiller):
    """Match where each channel is active: KL divergence between channels' softmax over positions.

    Channel-Wise Knowledge Distillation for Dense Prediction (Shu et al., ICCV 2021, arXiv 2011.13256). Several levels
    are summed.

    Args:
        on: ``'logits'`` or ``'features'``; by default logits of segmentors and features of all others.
        tau: Temperature; by default 4 on logits and 1 on features.
        term_weights: By default 3 on logits and 10 on features.
        **kwargs: See :class:`~mmpapers.distill.Distiller`.
    """

    roles: ClassVar = dict(logits='identity', features='auto')
    weights: ClassVar = dict(cwd=10.)

    def __init__(self, *args: Any, on: str | None = None, tau: float | None = None,
                 term_weights: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.on = on or ('logits' if family(self) == 'segmentor' else 'features')
        if self.on not in _DEFAULTS:
            raise DistillError(f"distill.on={on!r}: CWD compares 'logits' or 'features'")
        default, weight = _DEFAULTS[self.on]
        self.tau = default if tau is None else tau
        self.roles = {self.on: CWD.roles[self.on]}
        super().__init__(*args, term_weights=dict(cwd=weight) | (term_weights or {}), **kwargs)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Sum the divergence over levels."""
        return dict(cwd=sum(channel_divergence(student, teacher, self.tau) for student, teacher in seen.pairs(self.on)))
