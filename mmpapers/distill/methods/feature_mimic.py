"""Feature mimicking: the plainest distiller of features."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import Distiller, Seen
from mmpapers.registry import MODELS


@MODELS.register_module()
class FeatureMimic(Distiller):
    """Mean squared error between the teacher's levels and the student's after a connector.

    FitNets (Romero et al., ICLR 2015, arXiv 1412.6550), per level of the neck, summed over levels. Where widths agree
    features are compared as they are; ``connector='conv'`` asks for a 1x1 convolution in any case.
    """

    roles: ClassVar = dict(features='auto')
    weights: ClassVar = dict(mimic=1.)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Sum the error over levels, each the mean over its elements."""
        return dict(mimic=sum(F.mse_loss(student, teacher) for student, teacher in seen.pairs('features')))
