"""RTFormer: Efficient Design for Real-Time Semantic Segmentation with Transformer, NeurIPS 2022, arXiv:2210.07124.

Official code: PaddlePaddle/PaddleSeg, paddleseg/models/rtformer.py (commit d7975e7c). Licence of both: Apache-2.0.
Differences: cross-resolution attention makes its own keys and values from the low branch and multiplies per image; the
official code writes it as a convolution with one group an image, which fixes the batch size of an exported network.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmpapers.registry import MODELS

NORM = dict(type='BN', momentum=0.1)
_KV_INIT = dict(type='TruncNormal', layer='Conv2d', std=0.02, a=-0.04, b=0.04)


@MODELS.register_module()
class GPUFriendlyAttention(BaseModule):
    """External attention with grouped double normalisation (Sec. 3.1): its cost is linear in the number of pixels.

    Keys and values are learned parameters, so both products are 1x1 convolutions. The attention map is normalised over
    the pixels first and then, inside each of ``num_heads`` groups of channels, over the channels.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels D of the output and number of learned keys; the stride is 2 when it differs from C.
        num_heads: Groups of keys that are normalised together. Default: 8 (official code).
        norm_cfg: Normalisation of the input.
        init_cfg: Initialisation of the normalisation; keys and values are drawn from N(0, 0.001^2) (official code).

    Raises:
        ValueError: If ``out_channels`` is not a multiple of ``num_heads``.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 num_heads: int = 8,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        if out_channels % num_heads:
            raise ValueError(f'GPUFriendlyAttention: out_channels={out_channels} is not a multiple of '
                             f'num_heads={num_heads}; set num_heads to a divisor of it')
        self.num_heads = num_heads
        self.stride = 1 if in_channels == out_channels else 2
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]
        self.key = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1) * 0.001)
        self.value = nn.Parameter(torch.randn(out_channels, out_channels, 1, 1) * 0.001)

    def attend(self, x: Tensor) -> Tensor:
        """Return how much each pixel attends to each key.

        Args:
            x: Normalised features, (B, C, H, W).

        Returns:
            (B, H, W, D), not negative. Each group of D / num_heads keys sums to 1, short of the 1e-6 that the second
            normalisation adds to its divisor.
        """
        logits = F.linear(x.permute(0, 2, 3, 1), self.key.flatten(1))  # (B, H, W, D)
        weights = logits.flatten(1, 2).softmax(1).unflatten(-1, (self.num_heads, -1))  # (B, HW, heads, D / heads)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        return weights.reshape(logits.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the learned keys: (B, C, H, W) -> (B, D, H / stride, W / stride)."""
        weights = self.attend(self.norm(x)[..., ::self.stride, ::self.stride])
        return F.linear(weights, self.value.flatten(1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class CrossResolutionAttention(BaseModule):
    """Softmax attention of the high-resolution branch to a pooled low-resolution branch (Sec. 3.2).

    The low branch is max-pooled to ``cross_size`` x ``cross_size`` tokens, so the cost is linear in the pixels of the
    high branch. There is one head; the scale is the number of tokens to the power -0.5 (official code), not the width.

    Args:
        high_channels: Channels C of the high branch.
        low_channels: Channels of the low branch.
        cross_size: Side s of the pooled map. Default: 12 (official code; 8 in its RTFormer-Slim for ADE20K).
        norm_cfg: Normalisation of both inputs.
        init_cfg: Initialisation; truncated normal, 0.02, for the convolution that makes keys and values (official
            code).
    """

    def __init__(self,
                 high_channels: int,
                 low_channels: int,
                 cross_size: int = 12,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = _KV_INIT) -> None:
        super().__init__(init_cfg)
        self.scale = 1 / cross_size
        self.norm = build_norm_layer(norm_cfg, high_channels)[1]
        self.kv = nn.Sequential(
            build_norm_layer(norm_cfg, low_channels)[1],
            nn.AdaptiveMaxPool2d(cross_size),
            nn.Conv2d(low_channels, 2 * high_channels, 1, bias=False))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Attend from every pixel of the high branch to the tokens of the low branch.

        Args:
            high: (B, C, H, W).
            low: (B, low_channels, h, w), of any size.

        Returns:
            (B, C, H, W).
        """
        query = self.norm(high)
        key, value = self.kv(low).flatten(2).chunk(2, 1)  # (B, C, s * s) each
        weights = torch.einsum('bchw,bcs->bhws', query, key * self.scale).softmax(-1)
        return torch.einsum('bhws,bcs->bhwc', weights, value).permute(0, 3, 1, 2)
