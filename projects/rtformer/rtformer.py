"""RTFormer: Efficient Design for Real-Time Semantic Segmentation with Transformer, NeurIPS 2022, arXiv:2210.07124.

Official code: PaddlePaddle/PaddleSeg, paddleseg/models/rtformer.py (commit d7975e7c). Licence of both: Apache-2.0.
Differences: the momentum of batch normalisation is 0.1 in torch's sense. The official 0.1 is in Paddle's sense, which
is 0.9 here and keeps little but the last batch; ask for it with ``norm_cfg=dict(type='SyncBN', momentum=0.9)``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmseg.models.utils import DAPPM
from mmseg.models.utils.basic_block import BasicBlock
from torch import Tensor, nn

from mmpapers.projects.rtformer.attention import NORM, CrossResolutionAttention, GPUFriendlyAttention
from mmpapers.registry import MODELS

INIT = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_in'),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
]
PRE_ACTIVATION = dict(order=('norm', 'act', 'conv'), bias=False)
"""Arguments of :class:`mmcv.cnn.ConvModule` for the BN-ReLU-convolution units that join the branches."""


class ConvMLP(BaseModule):
    """BN with eps 1e-6 (official code), 3x3 convolution, GELU, 3x3 convolution, all of one width.

    Args:
        channels: Width C.
        drop_rate: Dropout after each convolution's activation. Default: 0 (official code).
        norm_cfg: Normalisation of the input; its ``eps`` is replaced.
    """

    def __init__(self, channels: int, drop_rate: float = 0., norm_cfg: dict = NORM) -> None:
        super().__init__()
        self.norm = build_norm_layer({**norm_cfg, 'eps': 1e-6}, channels)[1]
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each 5x5 neighbourhood, (B, C, H, W) -> (B, C, H, W)."""
        return self.drop(self.conv2(self.drop(F.gelu(self.conv1(self.norm(x))))))


@MODELS.register_module()
class RTFormerBlock(BaseModule):
    """A pair of transformer layers on two resolutions that exchange features (Sec. 3.2, Fig. 2).

    The low branch attends to learned keys, is added to the high branch, gives it keys and values, and receives the
    result back if ``use_injection``.

    Args:
        high_channels: Channels of the high branch, in and out.
        low_channels: Channels of the low branch coming in.
        out_channels: Channels of the low branch going out; it is halved in size if they differ from ``low_channels``.
        num_heads: See :class:`GPUFriendlyAttention`.
        cross_size: See :class:`CrossResolutionAttention`.
        use_injection: Whether the high branch is added to the low one at the end.
        drop_rate: Dropout in the MLPs.
        drop_path_rate: Probability that a residual branch is left out for an image.
        norm_cfg: Normalisation layers.
        init_cfg: Initialisation.
    """

    def __init__(self,
                 high_channels: int,
                 low_channels: int,
                 out_channels: int,
                 num_heads: int = 8,
                 cross_size: int = 12,
                 use_injection: bool = True,
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.2,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        self.shortcut = nn.Identity() if low_channels == out_channels else nn.Sequential(
            build_norm_layer(norm_cfg, low_channels)[1],
            nn.Conv2d(low_channels, out_channels, 1, stride=2, bias=False))
        self.low_attention = GPUFriendlyAttention(low_channels, out_channels, num_heads, norm_cfg)
        self.low_mlp = ConvMLP(out_channels, drop_rate, norm_cfg)
        self.compression = ConvModule(out_channels, high_channels, 1, norm_cfg=norm_cfg, **PRE_ACTIVATION)
        self.high_attention = CrossResolutionAttention(high_channels, out_channels, cross_size, norm_cfg)
        self.high_mlp = ConvMLP(high_channels, drop_rate, norm_cfg)
        self.drop_path = DropPath(drop_path_rate)
        half = dict(stride=2, padding=1, norm_cfg=norm_cfg, **PRE_ACTIVATION)
        self.injection = nn.Sequential(
            ConvModule(high_channels, out_channels // 2, 3, **half),
            ConvModule(out_channels // 2, out_channels, 3, **half)) if use_injection else None

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Update both branches.

        Args:
            high: (B, high_channels, H, W).
            low: (B, low_channels, h, w).

        Returns:
            High branch, (B, high_channels, H, W), and low branch, (B, out_channels, h / 2, w / 2), or (h, w) when the
            width stays.
        """
        low = self.shortcut(low) + self.drop_path(self.low_attention(low))
        low = low + self.drop_path(self.low_mlp(low))
        high = high + _resize(self.compression(low), high)
        high = high + self.drop_path(self.high_attention(high, low))
        high = high + self.drop_path(self.high_mlp(high))
        if self.injection is not None:
            low = low + self.injection(high)
        return high, low


@MODELS.register_module()
class RTFormer(BaseModule):
    """Two-branch backbone: convolutions to 1/16, two :class:`RTFormerBlock` at 1/8 and 1/32, then DAPPM (Fig. 2).

    The defaults are RTFormer-Slim; RTFormer-Base has ``base_channels=64`` and ``use_injection=(True, False)``.

    Args:
        in_channels: Channels of the image.
        base_channels: Width c of the stem: 32 (Slim) or 64 (Base).
        num_blocks: Basic blocks of the three convolutional stages. Default: (2, 2, 2) (official code).
        ppm_channels: Width of DAPPM. Default: 128 (official code).
        num_heads: See :class:`GPUFriendlyAttention`.
        cross_size: See :class:`CrossResolutionAttention`.
        use_injection: Whether each RTFormer block adds its high branch to its low one.
        drop_rate: Dropout in the MLPs. Default: 0 (official code).
        drop_path_rate: Default: 0.2 (official configs for Cityscapes; 0.1 for ADE20K).
        norm_cfg: Normalisation layers. ``momentum`` is torch's; see the head of this file.
        init_cfg: Initialisation. Default: He's for convolutions, fan-in (official code).

    Raises:
        ValueError: If ``num_blocks`` does not hold three numbers or ``use_injection`` two.
    """

    def __init__(self,
                 in_channels: int = 3,
                 base_channels: int = 32,
                 num_blocks: Sequence[int] = (2, 2, 2),
                 ppm_channels: int = 128,
                 num_heads: int = 8,
                 cross_size: int = 12,
                 use_injection: Sequence[bool] = (True, True),
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.2,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = INIT) -> None:
        super().__init__(init_cfg)
        if len(num_blocks) != 3 or len(use_injection) != 2:
            raise ValueError('RTFormer: num_blocks needs three numbers, for stages 1 to 3, and use_injection two, for '
                             f'stages 4 and 5, not {num_blocks} and {use_injection}')
        c = base_channels
        self.norm_cfg = norm_cfg
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, c, 3, stride=2, padding=1), build_norm_layer(norm_cfg, c)[1], nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, stride=2, padding=1), build_norm_layer(norm_cfg, c)[1], nn.ReLU(inplace=True))
        self.layer1 = self._make_layer(c, c, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(c, 2 * c, num_blocks[1], stride=2)
        self.layer3 = self._make_layer(2 * c, 4 * c, num_blocks[2], stride=2)
        self.compression = ConvModule(4 * c, 2 * c, 1, norm_cfg=norm_cfg, **PRE_ACTIVATION)
        self.layer3_high = BasicBlock(2 * c, 2 * c, norm_cfg=norm_cfg)
        block = dict(num_heads=num_heads, cross_size=cross_size, drop_rate=drop_rate, drop_path_rate=drop_path_rate,
                     norm_cfg=norm_cfg)
        self.layer4 = RTFormerBlock(2 * c, 4 * c, 8 * c, use_injection=use_injection[0], **block)
        self.layer5 = RTFormerBlock(2 * c, 8 * c, 8 * c, use_injection=use_injection[1], **block)
        self.spp = DAPPM(8 * c, ppm_channels, 2 * c, num_scales=5, norm_cfg=norm_cfg)
        obey_init_cfg(self)

    def _make_layer(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        """Stack basic blocks; the last of several ends without ReLU."""
        downsample = None if stride == 1 and in_channels == channels else nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
            build_norm_layer(self.norm_cfg, channels)[1])
        blocks = [BasicBlock(in_channels, channels, stride, downsample, self.norm_cfg)]
        blocks += [BasicBlock(channels, channels, norm_cfg=self.norm_cfg) for _ in range(num_blocks - 2)]
        blocks += [BasicBlock(channels, channels, norm_cfg=self.norm_cfg, act_cfg_out=None)] * (num_blocks > 1)
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images of any size.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            Features for the auxiliary head, (B, 2c, H / 8, W / 8), and for the main head, (B, 4c, H / 8, W / 8).
        """
        if x.device.type == 'cpu':
            x = x.contiguous(memory_format=torch.channels_last)  # the convolutions then take about half the time
        high = self.layer2(F.relu(self.layer1(self.stem(x))))  # (B, 2c, H / 8, W / 8)
        low = self.layer3(F.relu(high))  # (B, 4c, H / 16, W / 16)
        third = self.layer3_high(F.relu(high + _resize(self.compression(low), high)))
        high, low = self.layer4(third, F.relu(low))  # (B, 2c, H / 8, W / 8), (B, 8c, H / 32, W / 32)
        high, low = self.layer5(F.relu(high), F.relu(low))
        return third, torch.cat([high, _resize(self.spp(low), high)], 1)


def obey_init_cfg(module: nn.Module) -> None:
    """Leave the initialisation to ``init_cfg``: by itself mmcv's ``ConvModule`` draws again, with fan-out."""
    for child in module.modules():
        if isinstance(child, ConvModule):
            child.is_init = True


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of ``like``."""
    return F.interpolate(x, size=like.shape[2:], mode='bilinear', align_corners=False)
