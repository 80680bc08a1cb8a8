"""Plain ViT with windows and its feature pyramid: against loops, recorded ViTDet, and inside mmdet's DINO."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmpapers.layers.simple_feature_pyramid import LayerNorm2d, SimpleFeaturePyramid
from mmpapers.layers.vit import WindowAttention, WindowViT, join_windows, relative_positions, split_windows

pytestmark = [pytest.mark.core, pytest.mark.usefixtures('one_thread')]
PARITY = np.load(Path(__file__).parents[1] / 'data/parity/vitdet.npz')
TINY = dict(img_size=128, embed_dims=32, depth=4, num_heads=2, window_size=4, global_blocks=(1, 3),
            pretrain_img_size=64, drop_path_rate=0.)


def tiny(**kwargs: object) -> WindowViT:
    """A backbone whose relative positions and position embeddings are not 0."""
    model = WindowViT(**{**TINY, **kwargs})
    model.init_weights()
    for name, parameter in model.named_parameters():
        if 'rel_pos' in name or 'bias' in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def naive_attention(attention: WindowAttention, x: Tensor) -> Tensor:
    """Self-attention of one map (H, W, C), token by token and head by head, with sizes as of the tables."""
    height, width, channels = x.shape
    depth = channels // attention.num_heads
    tokens = [(r, c) for r in range(height) for c in range(width)]
    out = torch.zeros(height, width, channels)
    for head in range(attention.num_heads):
        at = slice(head * depth, (head + 1) * depth)
        q, k, v = (part[..., at] for part in attention.qkv(x).split(channels, -1))
        for r, c in tokens:
            logits = []
            for s, d in tokens:
                logit = q[r, c] @ k[s, d] / depth**0.5
                if attention.rel_pos_h is not None:
                    logit = logit + q[r, c] @ attention.rel_pos_h[r - s + height - 1]
                    logit = logit + q[r, c] @ attention.rel_pos_w[c - d + width - 1]
                logits.append(logit)
            weights = torch.stack(logits).softmax(0)
            out[r, c, at] = sum(w * v[s, d] for w, (s, d) in zip(weights, tokens))
    return attention.proj(out)


@pytest.mark.parametrize('size', [4, None])
def test_attention_equals_loops(size: int | None) -> None:
    attention = WindowAttention(6, 2, size)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 4, 4, 6)
    want = torch.stack([naive_attention(attention, each) for each in x])
    torch.testing.assert_close(attention(x), want, rtol=1e-4, atol=1e-5)


def test_rectangular_maps_interpolate_each_axis() -> None:
    attention = WindowAttention(6, 2, 4)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 3, 5, 6)
    got = attention(x)
    with torch.no_grad():
        for name, size in (('rel_pos_h', 3), ('rel_pos_w', 5)):
            table = getattr(attention, name)
            table = F.interpolate(table.T[None], size=2 * size - 1, mode='linear')[0].T
            setattr(attention, name, nn.Parameter(table))
    torch.testing.assert_close(got[0], naive_attention(attention, x[0]), rtol=1e-4, atol=1e-5)


def test_relative_positions_look_up_offsets() -> None:
    table = torch.arange(7.)[:, None]
    assert relative_positions(table, 4)[..., 0].tolist() == [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]
    assert relative_positions(table, 6).shape == (6, 6, 1)
    centre = relative_positions(table, 9)[..., 0]
    assert torch.equal(centre.diagonal(), torch.full((9, ), 3.))


def test_windows_are_cut_in_reading_order_and_joined_again() -> None:
    x = torch.randn(2, 5, 7, 3)
    windows = split_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 3, 3, 3)
    filled = torch.zeros(2, 6, 9, 3)
    filled[:, :5, :7] = x
    for index, (b, r, c) in enumerate((b, r, c) for b in range(2) for r in (0, 3) for c in (0, 3, 6)):
        assert torch.equal(windows[index], filled[b, r:r + 3, c:c + 3])
    assert torch.equal(join_windows(windows, 5, 7), x)


def test_window_block_equals_a_loop_over_windows() -> None:
    """Zeros that fill the last windows are keys like all others, with the bias of key and value: as released."""
    block = tiny().blocks[0]
    x = torch.randn(2, 6, 9, 32)
    want = x.clone()
    y = F.pad(block.norm1(x), (0, 0, 0, 3, 0, 2))
    for b in range(2):
        for r in (0, 4):
            for c in (0, 4, 8):
                part = block.attn(y[None, b, r:r + 4, c:c + 4])[0]
                height, width = min(4, 6 - r), min(4, 9 - c)
                want[b, r:r + 4, c:c + 4] += part[:height, :width]
    want = want + block.mlp(block.norm2(want))
    torch.testing.assert_close(block(x), want, rtol=1e-4, atol=1e-5)


def test_filling_tokens_do_not_depend_on_the_image() -> None:
    """They dilute the attention of the last windows, and of no other."""
    block = tiny().blocks[0]
    x = torch.randn(1, 8, 6, 32)
    assert torch.allclose(block(x)[:, :, :4], block(x[:, :, :4]), atol=1e-6)
    assert torch.allclose(block(x)[:, :, 4:], block(x[:, :, 4:]), atol=1e-6)
    assert not torch.allclose(block(F.pad(x, (0, 0, 0, 2)))[:, :, 4:6], block(x)[:, :, 4:], atol=1e-3)


def test_a_window_as_large_as_the_map_is_global() -> None:
    windows, whole = tiny(global_blocks=(), window_size=4), tiny(global_blocks=(0, 1, 2, 3), img_size=64)
    whole.load_state_dict(windows.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(windows(image)[0], whole(image)[0])


def test_windows_see_their_tokens_and_global_blocks_see_all() -> None:
    image = torch.randn(1, 3, 128, 128)
    changed = image.clone()
    changed[..., :64, :64] += 1
    for blocks, far in (((), False), ((3, ), True)):
        model = tiny(global_blocks=blocks).eval()
        difference = (model(image)[0] - model(changed)[0]).abs().amax(1)[0]
        assert (difference[:4, :4] > 1e-4).all()
        assert (difference[4:, 4:] > 1e-6).all() == far
        assert (difference[4:, 4:] == 0).all() != far


def test_images_of_a_batch_do_not_meet() -> None:
    model = tiny().eval()
    images = torch.randn(3, 3, 96, 80)
    torch.testing.assert_close(model(images)[0][1:2], model(images[1:2])[0], rtol=1e-4, atol=1e-5)


def test_images_are_padded_to_whole_patches() -> None:
    model = tiny().eval()
    image = torch.randn(1, 3, 100, 70)
    out = model(image)[0]
    assert out.shape == (1, 32, 7, 5)
    torch.testing.assert_close(out, model(F.pad(image, (0, 10, 0, 12)))[0])


def test_position_embeddings_are_interpolated() -> None:
    model = tiny().eval()
    image = torch.zeros(1, 3, 64, 64)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.patch_embed.proj.bias.zero_()
        model(image)
        model(F.pad(image, (0, 64, 0, 32)))
    assert torch.equal(seen[0].view(1, 16, 32), model.pos_embed)
    grid = model.pos_embed.view(1, 4, 4, 32).permute(0, 3, 1, 2)
    want = F.interpolate(grid, (6, 8), mode='bicubic').permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[1], want)


def test_recomputation_changes_nothing() -> None:
    image = torch.randn(2, 3, 64, 64)
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = tiny(with_cp=with_cp, drop_path_rate=0.5).train()
        torch.manual_seed(2)
        model(image)[0].square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_autocast_stays_close() -> None:
    model, image = tiny().eval(), torch.randn(1, 3, 96, 64)
    want = model(image)[0]
    with torch.autocast('cpu', torch.bfloat16):
        got = model(image)[0]
    got.float().sum().backward()
    assert (got - want).abs().max() < 0.1 * want.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_drop_path_grows_with_depth_and_sleeps_in_eval() -> None:
    model = tiny(drop_path_rate=0.3)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0, .1, .2, .3])
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(image)[0], model(image)[0])


def test_is_lighter_without_positions() -> None:
    model = tiny(use_abs_pos=False, use_rel_pos=False)
    assert not [name for name, _ in model.named_parameters() if 'pos' in name]
    assert model(torch.randn(1, 3, 64, 48))[0].shape == (1, 32, 4, 3)


# ---- recorded ViTDet


def official() -> tuple[WindowViT, SimpleFeaturePyramid]:
    """Ours with the recorded weights of detectron2."""
    net = WindowViT(img_size=128, embed_dims=16, depth=3, num_heads=2, drop_path_rate=0., window_size=3,
                    global_blocks=(1, ), pretrain_img_size=64)
    neck = SimpleFeaturePyramid(16, 8, num_outs=5)
    weights = {name[7:]: recorded(name) for name in PARITY.files if name.startswith('weight.')}
    assert net.load_plain_vit({name: w for name, w in weights.items() if name.startswith('net.')}) == []
    theirs = {name: w for name, w in weights.items() if name.startswith('simfp_')}
    state = {our_key(name): value for name, value in theirs.items()}
    neck.load_state_dict(state)
    assert len(state) == len(theirs)
    return net, neck


def our_key(name: str) -> str:
    """``simfp_<p>.<i>`` holds convolution and norm in one module, ``stages.<p - 2>`` one after the other."""
    level, index, rest = re.fullmatch(r'simfp_(\d)\.(\d)\.(.+)', name).groups()
    first = {'2': 4, '3': 1, '4': 0, '5': 1}[level]  # of the 1x1 convolution
    index = int(index)
    place = index if index < first else first + 2 * (index - first) + rest.startswith('norm.')
    return f'stages.{int(level) - 2}.{place}.{rest.removeprefix("norm.")}'


@pytest.mark.parametrize('index', range(3))
def test_equals_vitdet(index: int) -> None:
    net, neck = official()
    maps = net(recorded(f'image{index}') / 64 - 2)
    torch.testing.assert_close(maps[0], recorded(f'map{index}'), rtol=1e-4, atol=1e-4)
    if index < 2:
        for level, got in enumerate(neck(maps), 2):
            torch.testing.assert_close(got, recorded(f'p{level}_{index}'), rtol=1e-4, atol=1e-4)


def test_gradients_equal_vitdet() -> None:
    net, neck = official()
    sum(level.square().mean() for level in neck(net(recorded('image1') / 64 - 2))).backward()
    names = [name[9:] for name in PARITY.files if name.startswith('gradient.')]
    assert len(names) == 6
    for name in names:
        want = recorded(f'gradient.{name}')
        if name.startswith('simfp_'):
            got = neck.get_parameter(our_key(name)).grad
        else:
            got = net.get_parameter(name.removeprefix('net.')).grad
        if name == 'net.pos_embed':
            assert (want[:, 0] == 0).all()  # the class token
            want = want[:, 1:]
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


# ---- pyramid


def test_pyramid_shapes() -> None:
    neck = SimpleFeaturePyramid(32, 16, num_outs=5)
    outs = neck([torch.randn(2, 32, 8, 12)])
    assert [tuple(out.shape[1:]) for out in outs] == [(16, 32, 48), (16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])
    neck = SimpleFeaturePyramid(32, 16, (2, 1, .5), 4)
    assert [out.shape[2:] for out in neck([torch.randn(1, 32, 5, 1)])] == [(10, 2), (5, 1), (3, 1), (2, 1)]


def test_pyramid_without_norm_or_with_another() -> None:
    plain = SimpleFeaturePyramid(8, 4, norm_cfg=None)
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))
    other = SimpleFeaturePyramid(8, 4, norm_cfg=dict(type='GN', num_groups=2))
    assert sum(isinstance(m, nn.GroupNorm) for m in other.modules()) == 9
    assert not [m for m in other.modules() if isinstance(m, LayerNorm2d)]


def test_map_norm_is_layer_norm_of_channels() -> None:
    norm, x = LayerNorm2d(6), torch.randn(2, 6, 3, 4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    want = (x - mean) / (var + 1e-6).sqrt() * norm.weight.view(6, 1, 1) + norm.bias.view(6, 1, 1)
    torch.testing.assert_close(norm(x), want)


@pytest.mark.parametrize('kwargs, message', [
    (dict(scale_factors=(3., )), 'are of 4, 2, 1 and 0.5, got 3'),
    (dict(num_outs=2), 'num_outs=2 is less than the 4'),
    (dict(scale_factors=()), 'there are none'),
])
def test_pyramid_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(8, 4, **kwargs)


def test_pyramid_takes_one_map() -> None:
    with pytest.raises(ValueError, match='takes one map of the backbone, got 2'):
        SimpleFeaturePyramid(8, 4)([torch.zeros(1, 8, 4, 4)] * 2)


# ---- checkpoints


def mae(token: bool = True, patch: int = 16, side: int = 4, depth: int = 4) -> dict[str, Tensor]:
    """What MAE saves for the encoder of :data:`TINY`, and some of what its decoder and its classifier have."""
    shapes = {'patch_embed.proj.weight': (32, 3, patch, patch), 'patch_embed.proj.bias': (32, ),
              'pos_embed': (1, side**2 + token, 32), 'norm.weight': (32, ), 'norm.bias': (32, ),
              'mask_token': (1, 1, 16), 'decoder_embed.weight': (16, 32), 'decoder_blocks.0.norm1.weight': (16, ),
              'fc_norm.weight': (32, ), 'head.weight': (10, 32), 'head.bias': (10, )}
    if token:
        shapes['cls_token'] = (1, 1, 32)
    for i in range(depth):
        for name, shape in (('norm1', (32, )), ('norm2', (32, )), ('attn.qkv', (96, 32)), ('attn.proj', (32, 32)),
                            ('mlp.fc1', (128, 32)), ('mlp.fc2', (32, 128))):
            shapes[f'blocks.{i}.{name}.weight'] = shape
            shapes[f'blocks.{i}.{name}.bias'] = shape[:1]
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize('token', [True, False])
@pytest.mark.parametrize('wrap', [lambda s: dict(model=s, epoch=3), lambda s: s,
                                  lambda s: dict(state_dict={f'module.{k}': v for k, v in s.items()})])
def test_init_cfg_reads_mae(tmp_path: Path, token: bool, wrap: Callable) -> None:
    state = mae(token)
    torch.save(wrap(state), tmp_path / 'mae.pth')
    model = MODELS.build(dict(type='mmpapers.WindowViT', **TINY, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'mae.pth'))))
    model.init_weights()
    for name, parameter in model.named_parameters():
        if 'rel_pos' in name:
            assert not parameter.any()
        elif name == 'pos_embed':
            assert torch.equal(parameter, state[name][:, int(token):])
        else:
            assert torch.equal(parameter, state[name])


def test_missing_is_told_and_foreign_left_out() -> None:
    model = tiny()
    absent = model.load_plain_vit(mae())
    assert absent == [name for name, _ in model.named_parameters() if 'rel_pos' in name]
    assert len(absent) == 2 * 4
    bare = tiny(use_abs_pos=False, use_rel_pos=False)
    assert bare.load_plain_vit(mae()) == []


def test_other_sizes_are_interpolated() -> None:
    state = mae(patch=14, side=6)
    model = tiny()
    model.load_plain_vit(state)
    want = F.interpolate(state['patch_embed.proj.weight'], (16, 16), mode='bicubic')
    torch.testing.assert_close(model.patch_embed.proj.weight.data, want)
    grid = state['pos_embed'][:, 1:].view(1, 6, 6, 32).permute(0, 3, 1, 2)
    want = F.interpolate(grid, (4, 4), mode='bicubic').permute(0, 2, 3, 1)
    torch.testing.assert_close(model.pos_embed.data.view(1, 4, 4, 32), want)


def test_reads_the_backbone_of_a_detector() -> None:
    """With its relative positions, interpolated where they were made for another image size."""
    source, target = tiny(), tiny(img_size=256)
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    state['neck.patch.weight'] = torch.zeros(1)
    assert target.load_plain_vit(dict(state_dict=state)) == []
    assert torch.equal(target.blocks[0].attn.rel_pos_h, source.blocks[0].attn.rel_pos_h)
    table = source.blocks[1].attn.rel_pos_h
    want = F.interpolate(table.T[None], size=31, mode='linear')[0].T
    torch.testing.assert_close(target.blocks[1].attn.rel_pos_h, nn.Parameter(want))


@pytest.mark.parametrize('change, message', [
    (lambda s: {'layers.0.weight': torch.zeros(1)}, r"0 keys end in 'patch_embed.proj.weight'. It has layers.0.weight"),
    (lambda s: {**s, **{f'teacher.{k}': v for k, v in s.items()}}, '2 keys end in .*prefix=...'),
    (lambda s: {k: v for k, v in s.items() if 'blocks.3' not in k}, 'lacks: blocks.3.norm1.weight, .* and 8 more'),
    (lambda s: {**s, 'blocks.0.gamma_1': torch.ones(32)}, r'has besides: blocks.0.gamma_1\. '),
    (lambda s: {**s, 'norm.weight': s['norm.weight'], 'blocks.0.norm1.bias': torch.zeros(3)},
     r'differs in: blocks.0.norm1.bias \(3,\), here \(32,\)'),
    (lambda s: {**s, 'pos_embed': torch.zeros(1, 19, 32)}, '19 positions, neither a square nor'),
    (lambda s: {**s, 'patch_embed.proj.weight': torch.zeros(32, 3 * 16 * 16)}, 'differs in: patch_embed.proj.weight'),
])
def test_unknown_checkpoints(change: Callable, message: str) -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.load_plain_vit(change(mae()), 'file.pth')
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_prefix_chooses_among_several() -> None:
    state = mae()
    both = {**{f'student.{k}': v for k, v in state.items()}, **{f'teacher.{k}': v + 1 for k, v in state.items()}}
    model = tiny()
    model.load_plain_vit(both, prefix='teacher')
    assert torch.equal(model.blocks[2].mlp.fc1.weight, state['blocks.2.mlp.fc1.weight'] + 1)


@pytest.mark.parametrize('kwargs, message', [
    (dict(global_blocks=(1, 4)), r'global_blocks names \[4\], but depth=4 blocks are numbered 0 to 3'),
    (dict(global_blocks=(-1, )), r'global_blocks names \[-1\]'),
    (dict(num_heads=3), 'embed_dims=32 is not a multiple of num_heads=3'),
    (dict(init_cfg=dict(type='Xavier')), "init_cfg takes dict.type='Pretrained'"),
])
def test_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowViT(**{**TINY, **kwargs})


# ---- in a detector


def dino() -> BaseModel:
    """mmdet's DINO, whose width is fixed, over the tiny backbone: strides 8 to 64, as in Group DETR v2."""
    attention, ffn = dict(num_levels=4, dropout=0.), dict(feedforward_channels=16, ffn_drop=0.)
    plain = dict(embed_dims=256, num_heads=8, dropout=0.)
    return MODELS.build(ConfigDict(
        type='mmdet.DINO', num_queries=8, with_box_refine=True, as_two_stage=True, num_feature_levels=4,
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True),
        backbone=dict(type='mmpapers.WindowViT', **TINY | dict(drop_path_rate=0.1)),
        neck=dict(type='mmpapers.SimpleFeaturePyramid', in_channels=32, scale_factors=(2., 1., .5), num_outs=4),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
        decoder=dict(num_layers=2, return_intermediate=True, post_norm_cfg=None, layer_cfg=dict(
            self_attn_cfg=plain, cross_attn_cfg=attention, ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=128, normalize=True, offset=0., temperature=20),
        bbox_head=dict(type='mmdet.DINOHead', num_classes=2, sync_cls_avg_factor=True,
                       loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True),
                       loss_bbox=dict(type='mmdet.L1Loss', loss_weight=5.),
                       loss_iou=dict(type='mmdet.GIoULoss', loss_weight=2.)),
        dn_cfg=dict(label_noise_scale=.5, box_noise_scale=1., group_cfg=dict(
            dynamic=True, num_groups=None, num_dn_queries=4)),
        train_cfg=dict(assigner=dict(type='mmdet.HungarianAssigner', match_costs=[
            dict(type='mmdet.FocalLossCost', weight=2.), dict(type='mmdet.BBoxL1Cost', weight=5.),
            dict(type='mmdet.IoUCost', weight=2.)])),
        test_cfg=dict(max_per_img=8)))


def test_trains_and_predicts_in_dino(tiny_pair: Callable) -> None:
    batch = tiny_pair('dense')[2]()
    batch['inputs'][1] = F.pad(batch['inputs'][1], (0, 16, 0, 36))  # 100 x 80
    batch['data_samples'][1].set_metainfo(dict(img_shape=(100, 80), ori_shape=(100, 80), pad_shape=(100, 80)))
    model = dino()
    model.init_weights()
    model.train()
    losses = []
    for _ in range(2):
        torch.manual_seed(1)  # the same noise
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        losses.append(loss.item())
        if len(losses) == 1:
            loss.backward()
            lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
            assert not lacking
            torch.optim.AdamW(model.parameters(), 1e-3).step()
    assert losses[1] < losses[0]
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, False), mode='predict')
    assert all(len(result.pred_instances) == 8 for result in results)
