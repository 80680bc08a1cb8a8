"""Deformable layers on the perceptual side, so that cells may gather what their twin finds elsewhere."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmpapers.registry import MODELS


@MODELS.register_module()
class DeformAdaptNeck(BaseModule):
    """A module with residual deformable layers (3x3 DCNv2, batch norm) behind it.

    Associate-3Ddet has such layers between the encoder and the loss; neither number nor form was released, two and
    residual are our choice. Unlike the twin they stay at inference: a student with them is another detector than the
    plain one, and its own config says so. The last factor of each layer is 0 at first, so a new one changes nothing.

    Args:
        body: Config of the wrapped module: a middle encoder, a backbone or a neck.
        channels: Channels of what it returns.
        layers: Number of layers.
        init_cfg: Of :class:`mmengine.model.BaseModule`.
    """

    def __init__(self, body: dict, channels: int, layers: int = 2, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.body = MODELS.build(body)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            convolution = build_conv_layer(dict(type='DCNv2'), channels, channels, 3, padding=1, bias=False)
            norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
            nn.init.zeros_(norm.weight)
            self.layers.append(nn.Sequential(convolution, norm))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | list[Tensor]:
        """Run the wrapped module and adapt its maps (B, C, H, W)."""
        out = self.body(*args, **kwargs)
        return [self._adapt(level) for level in out] if isinstance(out, Sequence) else self._adapt(out)

    def _adapt(self, feature: Tensor) -> Tensor:
        for layer in self.layers:
            feature = feature + layer(feature)
        return feature
