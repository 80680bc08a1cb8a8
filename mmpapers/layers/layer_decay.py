"""Learning rates that fall from the last block of a transformer to its first.

As in BEiT (Bao et al., ICLR 2022) and ViTDet (Li et al., ECCV 2022, https://arxiv.org/abs/2203.16527; official code
facebookresearch/detectron2, `get_vit_lr_decay_rate`, Apache-2.0, nothing is copied). mmdet has such a constructor for
ConvNeXt alone. Differences: detectron2 decays the weights of biases and of relative positions, this does not.
"""

import re
from collections.abc import Iterable

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmpapers.registry import OPTIM_WRAPPER_CONSTRUCTORS

_LAYER = re.compile(r'(?:^|\.)backbone\.(?:(pos_embed|cls_token|patch_embed)\b|(?:blocks|layers)\.(\d+)\.)')
_POSITIONS = re.compile(r'pos_embed$|cls_token$|rel_pos_[hw]$|relative_position_bias_table$')


def layer_of(name: str) -> int | None:
    """Give the layer of a parameter: 0 for what makes tokens, i + 1 for block i, None outside of the backbone's blocks.

    Args:
        name: Name in the model, e.g. ``'backbone.blocks.3.attn.qkv.weight'``.
    """
    found = _LAYER.search(name)
    if not found:
        return None
    return 0 if found[1] else int(found[2]) + 1


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Give layer l of a backbone of n blocks the learning rate ``lr * decay_rate ** (n + 1 - l)``, all else ``lr``.

    Layer 0 holds the patch and position embeddings, layer i + 1 block i: parameters ``backbone.blocks.<i>.*`` or
    ``backbone.layers.<i>.*``. Norms, biases, other vectors and embeddings of positions have no weight decay. The other
    keys of mmengine's ``paramwise_cfg`` hold besides: an ``lr_mult`` multiplies the layer's rate, and a ``decay_mult``
    of ``custom_keys`` is obeyed even where there would be no weight decay.

    .. code-block:: python

        optim_wrapper = dict(
            constructor='mmpapers.LayerDecayConstructor', paramwise_cfg=dict(decay_rate=0.7),
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1))

    Args:
        optim_wrapper_cfg: The config ``optim_wrapper``; its optimizer needs ``lr``.
        paramwise_cfg: With ``decay_rate`` in (0, 1]; ``num_layers``, if given, is checked against the model.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.decay_rate = self.paramwise_cfg.get('decay_rate')
        if self.decay_rate is None or not 0 < self.decay_rate <= 1:
            raise ValueError('LayerDecayConstructor: optim_wrapper.paramwise_cfg needs a decay_rate in (0, 1], '
                             f'e.g. dict(decay_rate=0.7); got {self.decay_rate}.')
        if self.base_lr is None:
            raise ValueError('LayerDecayConstructor: optim_wrapper.optimizer needs lr, which the layers are scaled by.')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '',
                   is_dcn_module: int | float | None = None) -> None:
        """Collect parameters as mmengine does, then scale their rates and join those of equal settings to groups."""
        if prefix:  # mmengine calls this for every module inside
            super().add_params(params, module, prefix, is_dcn_module)
            return
        singles: list[dict] = []
        super().add_params(singles, module, prefix, is_dcn_module)
        names = {id(param): name for name, param in module.named_parameters()}
        top = self._count_blocks(names.values()) + 1
        groups: dict[str, dict] = {}
        for single in singles:
            param = single.pop('params')[0]
            name = names.pop(id(param), None)
            if name is None:
                continue  # shared: it has been met under its first name
            layer = layer_of(name)
            single['lr'] = single.get('lr', self.base_lr) * self.decay_rate**(top - (top if layer is None else layer))
            if 'decay_mult' not in single and (param.dim() <= 1 or _POSITIONS.search(name)):
                single['weight_decay'] = 0.
            groups.setdefault(repr(sorted(single.items())), dict(single, params=[]))['params'].append(param)
        params.extend(groups.values())
        print_log(f'LayerDecayConstructor: {top - 1} blocks, {len(groups)} groups, rates from '
                  f'{min(group["lr"] for group in params):.3g} to {max(group["lr"] for group in params):.3g}',
                  logger='current')

    def _count_blocks(self, names: Iterable[str]) -> int:
        """Number of blocks in the backbone."""
        count = max((layer_of(name) or 0 for name in names), default=0)
        if not count:
            raise ValueError('LayerDecayConstructor: the model has no parameters backbone.blocks.<i>.* or '
                             "backbone.layers.<i>.*; use mmengine's default constructor for this backbone.")
        wanted = self.paramwise_cfg.get('num_layers', count)
        if wanted != count:
            raise ValueError(f'LayerDecayConstructor: optim_wrapper.paramwise_cfg.num_layers={wanted}, but the '
                             f'backbone has {count} blocks; leave the key out.')
        return count
