"""RTFormer, RTFormerBlock and RTFormerHead: sizes, sub-modules, initialisation, optimiser, a training step."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.utils import DAPPM
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmpapers
from mmpapers.projects.rtformer.head import RTFormerHead
from mmpapers.projects.rtformer.rtformer import RTFormer, RTFormerBlock

pytestmark = pytest.mark.seg
CONFIGS = Path(mmpapers.__file__).resolve().parents[1] / 'projects/rtformer/configs'
TINY = dict(base_channels=8, ppm_channels=12, cross_size=3)


def _build(name: str) -> tuple[nn.Module, Config]:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope('mmseg')
    return MODELS.build(cfg.model), cfg


def _parameters(model: nn.Module, auxiliary: bool) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if auxiliary or not n.startswith('auxiliary_head'))


@pytest.mark.parametrize('name, count', [
    ('rtformer-slim_cityscapes', 5_365_043), ('rtformer-base_cityscapes', 17_765_971)])
def test_parameters_of_the_released_configs(name: str, count: int) -> None:
    with torch.device('meta'):
        model, _ = _build(name)
    assert _parameters(model, auxiliary=False) == count
    if 'slim' in name:
        statistics = sum(b.numel() for n, b in model.named_buffers() if 'running' in n)
        assert _parameters(model, auxiliary=True) + statistics == pytest.approx(5.418e6, abs=500)


@pytest.mark.parametrize('name, convolutions, attention', [
    ('rtformer-slim_cityscapes', 4.52e9, 0.21e9), ('rtformer-base_cityscapes', 16.86e9, 0.54e9)])
def test_operations_of_the_released_configs(name: str, convolutions: float, attention: float) -> None:
    """Multiply-adds at 512x512; the attention's are matrix products here."""
    with torch.device('meta'):
        model, _ = _build(name)
        model = revert_sync_batchnorm(model).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 512, 512), mode='tensor')
    operations = {str(op): flops / 2 for op, flops in counter.get_flop_counts()['Global'].items()}
    assert operations.pop('aten.convolution') == pytest.approx(convolutions, abs=5e6)
    assert sum(operations.values()) == pytest.approx(attention, abs=5e6)


@pytest.mark.parametrize('size', [(32, 64), (90, 122), (17, 250), (129, 97)])
def test_strides_at_any_size(size: tuple[int, int]) -> None:
    model = RTFormer(**TINY).eval()
    shapes = {}
    for name in ('layer4', 'layer5'):
        getattr(model, name).register_forward_hook(
            lambda _, __, out, name=name: shapes.update({name: [tuple(x.shape) for x in out]}))
    with torch.no_grad():
        third, last = model(torch.randn(3, 3, *size))
    high, low = ([-(-x // stride) for x in size] for stride in (8, 32))
    assert shapes == {name: [(3, 16, *high), (3, 64, *low)] for name in ('layer4', 'layer5')}
    assert third.shape == (3, 16, *high) and last.shape == (3, 32, *high)
    assert torch.isfinite(last).all()


def test_a_batch_equals_its_images() -> None:
    model = RTFormer(**TINY).eval()
    images = torch.randn(3, 3, 70, 94)
    with torch.no_grad():
        for whole, single in zip(model(images), zip(*(model(image[None]) for image in images))):
            torch.testing.assert_close(whole, torch.cat(single), rtol=1e-4, atol=1e-5)


def test_a_traced_block_takes_other_batches_and_sizes() -> None:
    """The official grouped convolution fixes the batch of an exported network."""
    block = RTFormerBlock(8, 16, 32, cross_size=2).eval()
    inputs = torch.randn(3, 8, 12, 10), torch.randn(3, 16, 6, 5)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        traced = torch.jit.trace(block, (torch.randn(1, 8, 8, 8), torch.randn(1, 16, 4, 4)), check_trace=False)
        for ours, theirs in zip(block(*inputs), traced(*inputs)):
            torch.testing.assert_close(theirs, ours)


def test_memory_layout_does_not_change_the_result() -> None:
    model = RTFormer(**TINY).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(model(images), model(images.contiguous(memory_format=torch.channels_last))):
            torch.testing.assert_close(a, b)


def test_block_without_injection_leaves_the_low_branch_to_itself() -> None:
    block = RTFormerBlock(8, 16, 16, cross_size=2, use_injection=False).eval()
    high, low = torch.randn(2, 8, 12, 12), torch.randn(2, 16, 3, 3)
    assert block.injection is None
    torch.testing.assert_close(block(high, low)[1], block(torch.randn_like(high), low)[1])
    mixed = RTFormerBlock(8, 16, 16, cross_size=2).eval()
    assert not torch.allclose(mixed(high, low)[1], mixed(torch.randn_like(high), low)[1])


def test_block_does_not_write_into_its_inputs() -> None:
    block = RTFormerBlock(8, 16, 32, cross_size=2).eval()
    high, low = torch.randn(2, 8, 12, 12), torch.randn(2, 16, 6, 6)
    before = high.clone(), low.clone()
    block(high, low)
    assert torch.equal(high, before[0]) and torch.equal(low, before[1])


def test_drop_path_leaves_out_whole_residuals_in_training_only() -> None:
    block = RTFormerBlock(8, 16, 16, cross_size=2, use_injection=False, drop_path_rate=1 - 1e-9)
    high, low = torch.randn(4, 8, 12, 12), torch.randn(4, 16, 3, 3)
    assert torch.equal(block(high, low)[1], low)
    block.eval()
    assert not torch.allclose(block(high, low)[1], low)


def _dappm(module: DAPPM, x: Tensor) -> Tensor:
    """The context module as the official code has it, on the weights of mmseg's."""

    def unit(conv_module: nn.Module, y: Tensor, padding: int = 0) -> Tensor:
        bn = conv_module.bn
        y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5)
        return F.conv2d(y.relu(), conv_module.conv.weight, padding=padding)

    levels = [unit(module.scales[0], x)]
    for i, stride in enumerate((2, 4, 8, 0)):
        pooled = x.mean((2, 3), True) if stride == 0 else F.avg_pool2d(
            x, 2 * stride + 1, stride, stride, count_include_pad=True)
        level = F.interpolate(unit(module.scales[i + 1][1], pooled), size=x.shape[2:], mode='bilinear')
        levels.append(unit(module.processes[i], level + levels[-1], padding=1))
    return unit(module.compression, torch.cat(levels, 1)) + unit(module.shortcut, x)


def test_dappm_of_mmseg_is_the_official_one() -> None:
    module = RTFormer(**TINY).spp.eval()
    for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for values in (bn.running_mean, bn.bias.data):
            values.normal_()
        for values in (bn.running_var, bn.weight.data):
            values.uniform_(0.5, 2)
    x = torch.randn(2, 64, 13, 18)
    torch.testing.assert_close(module(x), _dappm(module, x), rtol=1e-4, atol=1e-5)
    assert all(m.bias is None for m in module.modules() if isinstance(m, nn.Conv2d))


def test_initialisation() -> None:
    model = RTFormer(base_channels=32)
    model.init_weights()
    fan_in = {m: m.weight[0].numel() for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000}
    keys = {block.high_attention.kv[2] for block in (model.layer4, model.layer5)}
    assert len(fan_in) > 30
    for conv, fan in fan_in.items():
        expected = 0.0176 if conv in keys else (2 / fan) ** 0.5  # a normal of 0.02 cut at two deviations
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert conv.bias is None or not conv.bias.any()
    assert all((m.weight == 1).all() and not m.bias.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_batch_norm_is_a_field() -> None:
    model = RTFormer(**TINY, norm_cfg=dict(type='BN', momentum=0.9))
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {m.momentum for m in norms.values()} == {0.9}
    assert {n: m.eps for n, m in norms.items()} == {n: 1e-6 if 'mlp' in n else 1e-5 for n in norms}
    assert {m.momentum for m in RTFormer(**TINY).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_context_module_and_heads_learn_ten_times_as_fast() -> None:
    model, cfg = _build('rtformer-slim_cityscapes')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        fast = name.startswith(('backbone.spp.', 'decode_head.', 'auxiliary_head.'))
        assert rates[id(parameter)] == pytest.approx(4e-3 if fast else 4e-4), name


def _batch(classes: int, size: tuple[int, int]) -> dict:
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, flip=False))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size)))
        sample.gt_sem_seg.data[:, :5] = 255
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples], data_samples=samples)


def test_tiny_config_trains_and_predicts() -> None:
    model, cfg = _build('rtformer_tiny-cpu')
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = _batch(9, (96, 160))
    losses = [model.train_step(batch, wrapper) for _ in range(6)]
    assert {'decode.loss_ce', 'aux.loss_ce', 'decode.acc_seg', 'aux.acc_seg', 'loss'} == set(losses[0])
    assert losses[-1]['loss'] < losses[0]['loss']
    model.eval()
    predicted = model.test_step(batch)
    assert [p.pred_sem_seg.data.shape for p in predicted] == [(1, 96, 160)] * 2
    assert predicted[0].seg_logits.data.shape == (9, 96, 160)


def test_losses_are_means_over_labelled_pixels_with_weights() -> None:
    model, _ = _build('rtformer_tiny-cpu')
    data = model.data_preprocessor(_batch(9, (96, 160)), True)
    losses = model.loss(**data)
    labels = torch.stack([s.gt_sem_seg.data[0] for s in data['data_samples']])
    features = model.extract_feat(data['inputs'])
    for key, head, factor in (('decode', model.decode_head, 1), ('aux', model.auxiliary_head, 0.4)):
        logits = F.interpolate(head(features), (96, 160), mode='bilinear')
        expected = factor * F.cross_entropy(logits, labels, ignore_index=255)
        torch.testing.assert_close(losses[f'{key}.loss_ce'], expected)


def test_head_takes_its_feature_map() -> None:
    features = torch.randn(2, 16, 6, 7), torch.randn(2, 32, 6, 7)
    for index, channels in ((0, 16), (1, 32)):
        head = RTFormerHead(channels, 12, num_classes=5, in_index=index)
        assert head(features).shape == (2, 5, 6, 7)
        assert head.dropout is None


@pytest.mark.parametrize('wrong', [dict(num_blocks=(2, 2)), dict(use_injection=(True,))])
def test_wrong_lengths_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match='num_blocks needs three numbers, for stages 1 to 3, and use_injection two'):
        RTFormer(**TINY, **wrong)
