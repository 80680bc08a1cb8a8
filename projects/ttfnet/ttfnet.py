"""Training-Time-Friendly Network for Real-Time Object Detection, AAAI 2020, https://arxiv.org/abs/1909.00700

Official code: https://github.com/ZJULearning/ttfnet (Apache-2.0); nothing is copied from it.
Differences: the upsampling path is a neck instead of a part of the head; ``use_dcn=False`` puts plain convolutions in
the place of deformable ones; input sizes need not be multiples of 32.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.detectors.single_stage import SingleStageDetector
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.model import BaseModule, kaiming_init
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.registry import MODELS

NORM = {'type': 'BN'}


@MODELS.register_module()
class TTFNet(SingleStageDetector):
    """An anchor-free, NMS-free detector that trains several times faster than others of its speed.

    Args:
        backbone: Backbone with maps of stride 4, 8, 16 and 32.
        neck: ``TTFNeck``.
        bbox_head: ``TTFHead``.
        train_cfg: Unused.
        test_cfg: See ``TTFHead``.
        data_preprocessor: As in mmdet.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 backbone: ConfigType,
                 neck: ConfigType,
                 bbox_head: ConfigType,
                 train_cfg: OptConfigType = None,
                 test_cfg: OptConfigType = None,
                 data_preprocessor: OptConfigType = None,
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, data_preprocessor, init_cfg)
        # mmdet's Darknet freezes its stages in train() only; the optimizer and DDP look at requires_grad before that.
        self.train()

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Run backbone and neck.

        Args:
            batch_inputs: Normalised images (B, 3, H, W).

        Returns:
            The neck's map.
        """
        if batch_inputs.device.type == 'cpu':  # a fifth less time a training step; convolutions pass the layout on
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        return super().extract_feat(batch_inputs)

    def export_forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run network and decoding as one traceable graph of convolutions, a max-pool and a top-k.

        Args:
            inputs: Normalised images (B, 3, H, W).

        Returns:
            Boxes (B, K, 4) in input pixels, scores (B, K) and labels (B, K).
        """
        return self.bbox_head.decode(*self.bbox_head(self.extract_feat(inputs)))


@MODELS.register_module()
class TTFNeck(BaseModule):
    """Bring the last map of a backbone up to stride 4, adding the finer ones through short stacks of convolutions.

    Each stage is a 3x3 (deformable) convolution, norm, ReLU and a bilinear upsampling with aligned corners.

    Args:
        in_channels: Channels of the backbone's maps, fine to coarse.
        out_channels: Width of each stage. Official: 256, 128, 64, that is stride 16, 8, 4.
        shortcut_convs: 3x3 convolutions in the shortcut of each stage. Official: 1, 2, 3. Stages that have no finer map
            left get none.
        use_dcn: Modulated deformable convolutions (official); False for plain ones.
        norm_cfg: Norm of the stages.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If ``shortcut_convs`` does not fit the number of stages and maps.
    """

    def __init__(self,
                 in_channels: Sequence[int] = (64, 128, 256, 512),
                 out_channels: Sequence[int] = (256, 128, 64),
                 shortcut_convs: Sequence[int] = (1, 2, 3),
                 use_dcn: bool = True,
                 norm_cfg: ConfigType = NORM,
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg=init_cfg)
        expected = min(len(in_channels) - 1, len(out_channels))
        if len(shortcut_convs) != expected:
            raise ValueError(f'neck.shortcut_convs needs {expected} numbers, one for each stage with a finer backbone '
                             f'map, got {len(shortcut_convs)}')
        conv_cfg = {'type': 'DCNv2'} if use_dcn else None
        widths = [in_channels[-1], *out_channels]
        self.stages = nn.ModuleList(
            nn.Sequential(
                build_conv_layer(conv_cfg, a, b, 3, padding=1),
                build_norm_layer(norm_cfg, b)[1],
                nn.ReLU(inplace=True)) for a, b in zip(widths, widths[1:]))
        self.shortcuts = nn.ModuleList(
            _shortcut(a, b, n) for a, b, n in zip(in_channels[-2::-1], out_channels, shortcut_convs))

    def init_weights(self) -> None:
        """Draw the shortcuts from Kaiming's normal distribution; the rest keeps its layers' own initialisation."""
        super().init_weights()
        for module in self.shortcuts.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor]:
        """Merge the backbone's maps.

        Args:
            feats: Maps (B, C_i, H_i, W_i), fine to coarse.

        Returns:
            One map (B, out_channels[-1], H_0, W_0).
        """
        x = feats[-1]
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.shortcuts):
                finer = feats[-2 - i]
                x = F.interpolate(x, size=finer.shape[2:], mode='bilinear', align_corners=True)
                x = x + self.shortcuts[i](finer)
            else:
                x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)
        return x,


def _shortcut(in_channels: int, out_channels: int, num_convs: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them."""
    layers = [nn.Conv2d(in_channels, out_channels, 3, padding=1)]
    for _ in range(num_convs - 1):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(out_channels, out_channels, 3, padding=1)]
    return nn.Sequential(*layers)
