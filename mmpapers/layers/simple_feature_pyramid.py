"""Feature pyramid out of the one map of a plain ViT.

Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), Li et al., ECCV 2022,
https://arxiv.org/abs/2203.16527.
Official code: facebookresearch/detectron2, detectron2/modeling/backbone/vit.py (Apache-2.0, nothing is copied).
Differences: pooling keeps the last row and column of odd maps; the official code pads images so that none is odd.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmpapers.registry import MODELS


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position of (B, C, H, W); for ``norm_cfg``.

    Args:
        num_features: Channels.
        eps: Added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__(num_features, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Scale one map up by deconvolution and down by pooling; each scale has its own 1x1 and 3x3 convolution.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of each output. 256 in ViTDet.
        scale_factors: Of 4, 2, 1 and 0.5: sizes of the outputs relative to the map. A map of stride 16 gives strides
            4, 8, 16 and 32.
        num_outs: Outputs; those beyond ``scale_factors`` take every second position of the one before, as in FPN.
            Default: one for each factor.
        norm_cfg: Norm behind every convolution; None for none, with biases instead.
        init_cfg: As of every mmengine module.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int = 256,
                 scale_factors: Sequence[float] = (4., 2., 1., 0.5),
                 num_outs: int | None = None,
                 norm_cfg: dict | None = dict(type='mmpapers.LayerNorm2d', eps=1e-6),  # noqa: B006
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_outs = len(scale_factors) if num_outs is None else num_outs
        if not 0 < len(scale_factors) <= self.num_outs:
            raise ValueError(f'SimpleFeaturePyramid: num_outs={num_outs} is less than the {len(scale_factors)} '
                             'scale_factors, or there are none.')
        self.stages = nn.ModuleList(
            nn.Sequential(*_rescale(in_channels, factor, norm_cfg),
                          nn.Conv2d(_width(in_channels, factor), out_channels, 1, bias=norm_cfg is None),
                          *_norm(norm_cfg, out_channels),
                          nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=norm_cfg is None),
                          *_norm(norm_cfg, out_channels)) for factor in scale_factors)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map one (B, C, H, W) in a sequence to ``num_outs`` maps, the largest first if the factors fall."""
        if len(inputs) != 1:
            raise ValueError(f'SimpleFeaturePyramid takes one map of the backbone, got {len(inputs)}.')
        outs = [stage(inputs[0]) for stage in self.stages]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _norm(norm_cfg: dict | None, channels: int) -> list[nn.Module]:
    """The norm, if there is one."""
    return [] if norm_cfg is None else [build_norm_layer(norm_cfg, channels)[1]]


def _width(channels: int, factor: float) -> int:
    """Channels behind :func:`_rescale`: halved by each deconvolution."""
    return channels // int(max(factor, 1))


def _rescale(channels: int, factor: float, norm_cfg: dict | None) -> list[nn.Module]:
    """Layers that scale a map by a factor."""
    half = channels // 2
    if factor == 4:
        return [nn.ConvTranspose2d(channels, half, 2, stride=2), *_norm(norm_cfg, half), nn.GELU(),
                nn.ConvTranspose2d(half, channels // 4, 2, stride=2)]
    if factor == 2:
        return [nn.ConvTranspose2d(channels, half, 2, stride=2)]
    if factor == 1:
        return []
    if factor == 0.5:
        return [nn.MaxPool2d(2, stride=2, ceil_mode=True)]
    raise ValueError(f'SimpleFeaturePyramid: scale_factors are of 4, 2, 1 and 0.5, got {factor}.')
