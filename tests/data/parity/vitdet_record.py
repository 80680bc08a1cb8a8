"""Record maps and gradients of the official ViTDet backbone and pyramid into ``vitdet.npz``.

Usage: python tests/data/parity/vitdet_record.py CHECKOUT_OF_facebookresearch/detectron2

Two official files (backbone/vit.py and backbone/utils.py) are run from the checkout as they are. What they import is
replaced: weight initialisation, drop path (0 here), timm's MLP, and detectron2's Conv2d and layer norm of maps, whose
few lines are written here anew. Also recorded: the learning rate factors of the official ``get_vit_lr_decay_rate``.
"""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

SEED = 16527
VIT = dict(img_size=128, patch_size=16, embed_dim=16, depth=3, num_heads=2, drop_path_rate=0., window_size=3,
           window_block_indexes=(0, 2), use_rel_pos=True, pretrain_img_size=64, pretrain_use_cls_token=True)
SIZES = ((64, 64), (96, 128), (112, 80))


class MapNorm(nn.Module):
    """Layer norm over the channels of a map, eps 1e-6, as detectron2 documents its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W)."""
        var, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return (x - mean) / (var + 1e-6).sqrt() * self.weight[:, None, None] + self.bias[:, None, None]


class Conv(nn.Conv2d):
    """Convolution followed by a norm."""

    def __init__(self, *args: object, norm: nn.Module | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and normalise."""
        return self.norm(super().forward(x))


class Mlp(nn.Module):
    """MLP of timm."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: type) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(self.act(self.fc1(x)))


class Backbone(nn.Module):
    """Stands in for detectron2's base class."""

    def output_shape(self) -> dict:
        """Channels and strides by name."""
        return {name: types.SimpleNamespace(channels=self._out_feature_channels[name],
                                            stride=self._out_feature_strides[name]) for name in self._out_features}


class MaxPool(nn.Module):
    """Stands in for detectron2's LastLevelMaxPool: every second position."""
    num_levels, in_feature = 1, 'p5'

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Subsample a map."""
        return [x[:, :, ::2, ::2]]


def load(checkout: Path) -> types.ModuleType:
    """Import vit.py of the checkout."""
    content = {
        'fvcore': {}, 'fvcore.nn': {}, 'fvcore.nn.weight_init': {}, 'timm': {}, 'timm.models': {},
        'timm.models.layers': dict(DropPath=nn.Identity, Mlp=Mlp), 'detectron2': {}, 'detectron2.modeling': {},
        'detectron2.layers': dict(CNNBlockBase=nn.Module, Conv2d=Conv, get_norm=lambda norm, c: MapNorm(c)),
        'detectron2.modeling.backbone': {}, 'detectron2.modeling.backbone.backbone': dict(Backbone=Backbone),
        'detectron2.modeling.backbone.fpn': dict(_assert_strides_are_log2_contiguous=lambda strides: None)}
    for name, members in content.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(members)
    for name in ('utils', 'vit'):
        full = f'detectron2.modeling.backbone.{name}'
        spec = importlib.util.spec_from_file_location(full, checkout / f'detectron2/modeling/backbone/{name}.py')
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules['detectron2.modeling.backbone.vit']


def main(checkout: Path) -> None:
    """Run the official code on seeded weights and images."""
    vit = load(checkout)
    torch.manual_seed(SEED)
    net = vit.ViT(norm_layer=lambda c: nn.LayerNorm(c, eps=1e-6), **VIT)
    model = vit.SimpleFeaturePyramid(net, 'last_feat', 8, (4., 2., 1., .5), MaxPool())
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1. if 'norm' in name and name.endswith('weight') else 0., 0.2)
    out = {f'weight.{name}': parameter for name, parameter in model.named_parameters()}
    for index, size in enumerate(SIZES):
        image = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
        out[f'image{index}'] = image
        image = image / 64 - 2
        out[f'map{index}'] = net(image)['last_feat']
        if index < 2:  # the third has an odd map, which the official pyramid is never given
            levels = model(image)
            out |= {f'{level}_{index}': value for level, value in levels.items()}
        if index == 1:
            model.zero_grad()
            sum((value * value).mean() for value in levels.values()).backward()
            for name in ('net.blocks.0.attn.rel_pos_h', 'net.blocks.1.attn.rel_pos_w', 'net.pos_embed',
                         'net.blocks.2.attn.qkv.weight', 'net.patch_embed.proj.weight', 'simfp_2.0.weight'):
                out[f'gradient.{name}'] = model.get_parameter(name).grad
    rates = {name: vit.get_vit_lr_decay_rate(name.replace('net.', 'backbone.net.'), 0.7, VIT['depth'])
             for name, _ in model.named_parameters()}
    commit = subprocess.run(['git', '-C', checkout, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    provenance = (f'https://github.com/facebookresearch/detectron2 at {commit}: detectron2/modeling/backbone/vit.py, '
                  f'run by tests/data/parity/vitdet_record.py, seed {SEED}, torch {torch.__version__}; {VIT}')
    arrays = {name: value.detach().numpy() for name, value in out.items()}
    np.savez_compressed(Path(__file__).with_name('vitdet.npz'), provenance=provenance, rates=list(rates.values()),
                        rate_names=list(rates), **arrays)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
