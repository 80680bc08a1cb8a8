"""RTFormer's segmentation head, NeurIPS 2022, arXiv:2210.07124.

Official code: PaddlePaddle/PaddleSeg, paddleseg/models/rtformer.py (commit d7975e7c). Licence of both: Apache-2.0.
Differences: main and auxiliary head are two instances of one class, mmseg's ``decode_head`` and ``auxiliary_head``.
"""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmpapers.projects.rtformer.attention import NORM
from mmpapers.projects.rtformer.rtformer import INIT, PRE_ACTIVATION, obey_init_cfg
from mmpapers.registry import MODELS


@MODELS.register_module()
class RTFormerHead(BaseDecodeHead):
    """BN, ReLU, 3x3 convolution, BN, ReLU, 1x1 convolution to the classes.

    Args:
        in_channels: Channels of the feature map ``in_index`` of the backbone.
        channels: Width: 128 in Slim and 256 in Base (official configs), half of it in the auxiliary head.
        dropout_ratio: Dropout before the classifier. Default: 0 (official code).
        norm_cfg: Normalisation layers.
        init_cfg: Initialisation. Default: He's for convolutions, fan-in (official code).
        kwargs: Arguments of mmseg's ``BaseDecodeHead``: ``num_classes``, ``in_index``, ``loss_decode`` ...
    """

    def __init__(self,
                 in_channels: int,
                 channels: int,
                 dropout_ratio: float = 0.,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = INIT,
                 **kwargs) -> None:
        super().__init__(
            in_channels, channels, dropout_ratio=dropout_ratio, norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)
        self.conv = ConvModule(self.in_channels, channels, 3, padding=1, norm_cfg=norm_cfg, **PRE_ACTIVATION)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU(inplace=True)
        obey_init_cfg(self)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return logits, (B, num_classes, H, W), of the feature map ``in_index``, (B, in_channels, H, W)."""
        x = self._transform_inputs(inputs)
        return self.cls_seg(self.act(self.norm(self.conv(x))))
