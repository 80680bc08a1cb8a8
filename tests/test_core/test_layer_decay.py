"""Learning rates by layer: the closed form, recorded detectron2, and other settings on top."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmpapers.layers.layer_decay import layer_of
from mmpapers.layers.vit import WindowViT

pytestmark = pytest.mark.core
PARITY = np.load(Path(__file__).parents[1] / 'data/parity/vitdet.npz')


class Detector(nn.Module):
    """A backbone of three blocks, a norm and a head with one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = WindowViT(img_size=64, embed_dims=8, depth=3, num_heads=2, window_size=2, global_blocks=(1, ),
                                  pretrain_img_size=64)
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))
        self.head = nn.ModuleList([nn.Linear(8, 4)] * 2)
        self.query_embedding = nn.Embedding(5, 8)


def settings(model: nn.Module, **paramwise: object) -> dict[str, dict]:
    """Settings of each parameter's group by the parameter's name."""
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1),
        constructor='mmpapers.LayerDecayConstructor', paramwise_cfg=dict(decay_rate=0.5, **paramwise)))
    groups = wrapper.optimizer.param_groups
    found = {id(p): group for group in groups for p in group['params']}
    assert len(found) == sum(len(group['params']) for group in groups)
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


def test_rates_are_powers_of_the_distance_from_the_top() -> None:
    found = settings(Detector())
    assert len(found) == len(list(Detector().parameters()))
    layers = {'backbone.pos_embed': 0, 'backbone.patch_embed.proj.weight': 0, 'backbone.patch_embed.proj.bias': 0,
              'backbone.blocks.0.attn.qkv.weight': 1, 'backbone.blocks.1.attn.rel_pos_h': 2,
              'backbone.blocks.2.mlp.fc2.bias': 3, 'neck.0.weight': 4, 'head.0.weight': 4,
              'query_embedding.weight': 4}
    for name, layer in layers.items():
        assert found[name]['lr'] == pytest.approx(1e-2 * 0.5**(4 - layer)), name


def test_rates_equal_detectron2() -> None:
    checked = 0
    for name, rate in zip(PARITY['rate_names'], PARITY['rates']):
        layer = layer_of(str(name).replace('net.', 'backbone.'))
        assert 0.7**(4 - (4 if layer is None else layer)) == pytest.approx(rate), name
        checked += layer is not None
    assert checked == 3 + 3 * 14  # patch filters and bias, positions; three blocks


def test_weights_that_do_not_decay() -> None:
    for name, group in settings(Detector()).items():
        free = name.endswith(('bias', 'pos_embed', 'rel_pos_h', 'rel_pos_w')) or 'norm' in name or name[:6] == 'neck.1'
        assert group['weight_decay'] == (0 if free else 0.1), name


def test_groups_are_few() -> None:
    groups = {id(group) for group in settings(Detector()).values()}
    assert len(groups) == 2 * 5  # layers, with decay and without


def test_other_keys_hold_besides() -> None:
    found = settings(Detector(), custom_keys={
        'blocks.1': dict(lr_mult=0.1), 'head': dict(lr_mult=3.), 'norm1.bias': dict(decay_mult=2.)})
    assert found['backbone.blocks.1.mlp.fc1.weight']['lr'] == pytest.approx(1e-2 * 0.1 * 0.5**2)
    assert found['backbone.blocks.1.mlp.fc1.bias']['weight_decay'] == 0
    assert found['backbone.blocks.1.mlp.fc1.weight']['weight_decay'] == 0.1
    assert found['head.0.weight']['lr'] == pytest.approx(3e-2)
    assert found['backbone.blocks.0.norm1.bias']['weight_decay'] == pytest.approx(0.2)
    assert found['backbone.blocks.0.norm1.bias']['lr'] == pytest.approx(1e-2 * 0.5**3)


def test_frozen_parameters_are_left_out() -> None:
    model = Detector()
    model.backbone.blocks[0].requires_grad_(False)
    found = settings(model)
    assert not [name for name in found if 'blocks.0' in name]
    assert found['backbone.patch_embed.proj.weight']['lr'] == pytest.approx(1e-2 * 0.5**4)


def test_steps_move_deep_layers_more() -> None:
    model = Detector()
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='SGD', lr=1.), constructor='mmpapers.LayerDecayConstructor',
        paramwise_cfg=dict(decay_rate=0.5)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    wrapper.update_params(sum(p.sum() for p in model.parameters()))
    for layer, name in enumerate(['backbone.pos_embed', *(f'backbone.blocks.{i}.attn.qkv.bias' for i in range(3))]):
        moved = before[name] - model.get_parameter(name)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5**(4 - layer)), atol=1e-6, rtol=1e-5)


def test_names() -> None:
    assert layer_of('student.backbone.blocks.11.norm1.weight') == 12
    assert layer_of('backbone.layers.0.ln1.weight') == 1
    assert layer_of('backbone.cls_token') == 0
    assert layer_of('backbone.norm.weight') is None
    assert layer_of('decoder.layers.0.ffn.weight') is None
    assert layer_of('my_backbone.blocks.0.weight') is None


@pytest.mark.parametrize('cfg, message', [
    (None, 'needs a decay_rate in'),
    (dict(decay_rate=1.5), 'got 1.5'),
    (dict(decay_rate=0.7, num_layers=12), 'num_layers=12, but the backbone has 3 blocks'),
])
def test_errors(cfg: dict | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optim_wrapper(Detector(), dict(
            optimizer=dict(type='SGD', lr=1.), constructor='mmpapers.LayerDecayConstructor', paramwise_cfg=cfg))


def test_other_backbones_and_missing_rate() -> None:
    cfg = dict(optimizer=dict(type='Adam', lr=1.), constructor='mmpapers.LayerDecayConstructor',
               paramwise_cfg=dict(decay_rate=0.7))
    with pytest.raises(ValueError, match='no parameters backbone.blocks'):
        build_optim_wrapper(nn.Linear(2, 2), cfg)
    with pytest.raises(ValueError, match='optimizer needs lr'):
        build_optim_wrapper(Detector(), dict(cfg, optimizer=dict(type='Adam')))
