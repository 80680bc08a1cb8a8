"""TTFNeck and TTFNet: recorded official forward pass, configs, training step, export, converter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmpapers.models import TTFHead, TTFNeck
from mmpapers.projects.ttfnet.convert import convert, main
from mmpapers.registry import MODELS

pytestmark = pytest.mark.det
ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / 'projects/ttfnet/configs').glob('*.py'))
TINY = ROOT / 'projects/ttfnet/configs/ttfnet_r18_tiny-cpu.py'
PARITY = np.load(ROOT / 'tests/data/parity/ttfnet.npz')


def build(path: Path, device: str = 'cpu') -> tuple[torch.nn.Module, Config]:
    """Build a config's detector without loading pretrained weights; without any on the device meta."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    with torch.device(device):
        return MODELS.build(cfg.model), cfg


def batch(size: int, classes: int, images: int = 2) -> dict:
    """Random images with two boxes each, as a data loader returns them."""
    samples = []
    for _ in range(images):
        sample = DetDataSample(metainfo={'img_shape': (size, size), 'scale_factor': (1., 1.)})
        boxes = torch.tensor([[4., 4., size * 0.5, size * 0.6], [size * 0.4, size * 0.5, size * 0.9, size * 0.8]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, classes, (2, )))
        samples.append(sample)
    return {'inputs': [torch.randint(0, 255, (3, size, size)) for _ in range(images)], 'data_samples': samples}


def official_state() -> dict[str, torch.Tensor]:
    return {k.removeprefix('state/'): torch.from_numpy(PARITY[k]) for k in PARITY.files if k.startswith('state/')}


def recorded_modules() -> tuple[TTFNeck, TTFHead]:
    """Neck and head of the recorded size with the official weights, converted."""
    neck = TTFNeck((6, 8, 10, 12), (12, 10, 8))
    head = TTFHead(num_classes=3, in_channels=8, heatmap_channels=8, wh_channels=6, wh_convs=1)
    state = convert({'state_dict': official_state(), 'meta': {'CLASSES': ('a', 'b', 'c')}})['state_dict']
    neck.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith('neck.')})
    head.load_state_dict({k[10:]: v for k, v in state.items() if k.startswith('bbox_head.')})
    return neck.eval(), head.eval()


def test_forward_equals_official() -> None:
    """Deformable convolutions, aligned upsampling, shortcuts and both branches, on converted official weights."""
    neck, head = recorded_modules()
    with torch.no_grad():
        heatmap, wh = head(neck([torch.from_numpy(PARITY[f'feat{i}']) for i in range(4)]))
    torch.testing.assert_close(heatmap, torch.from_numpy(PARITY['heatmap']), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wh, torch.from_numpy(PARITY['wh']), atol=1e-4, rtol=1e-5)


def test_neck_upsamples_with_aligned_corners() -> None:
    """A ramp stays a ramp whose ends keep their values; the default of interpolate would flatten them."""
    neck = TTFNeck((1, 1), (1, ), (1, ), use_dcn=False).eval()
    torch.nn.init.dirac_(neck.stages[0][0].weight)
    for parameter in (neck.stages[0][0].bias, *neck.shortcuts.parameters()):
        torch.nn.init.zeros_(parameter)
    ramp = torch.arange(4.).expand(1, 1, 4, 4)
    out, = neck([torch.zeros(1, 1, 8, 8), ramp])
    torch.testing.assert_close(out[0, 0, 0], torch.linspace(0, 3, 8), atol=1e-4, rtol=0)


def test_neck_takes_any_size_and_more_stages_than_maps() -> None:
    feats = [torch.randn(1, c, *s) for c, s in ((4, (23, 30)), (5, (12, 15)), (6, (6, 8)))]
    out, = TTFNeck((4, 5, 6), (7, 8), (1, 2), use_dcn=False)(feats)
    assert out.shape == (1, 8, 23, 30)
    out, = TTFNeck((4, 5, 6), (7, 8, 3), (1, 2), use_dcn=False)(feats)
    assert out.shape == (1, 3, 46, 60)


def test_neck_initialisation_and_switch() -> None:
    neck = TTFNeck()
    neck.init_weights()
    weight = neck.shortcuts[0][0].weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9))**0.5, rel=0.02)
    assert not neck.stages[0][0].conv_offset.weight.any() and 'Deform' in type(neck.stages[0][0]).__name__
    assert type(TTFNeck(use_dcn=False).stages[0][0]) is torch.nn.Conv2d


def test_neck_error_names_the_key() -> None:
    with pytest.raises(ValueError, match='neck.shortcut_convs needs 3 numbers, .* got 2'):
        TTFNeck(shortcut_convs=(1, 2))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_configs_build_as_published(path: Path) -> None:
    model, cfg = build(path, 'meta')
    name = path.stem.split('_')
    published = 'coco' in name
    assert model.bbox_head.num_classes == cfg.get('num_classes', len(cfg.get('metainfo', {}).get('classes', range(80))))
    if published:
        epochs = {'1x': 12, '2x': 24, '10x': 120}[name[2]]
        assert cfg.train_cfg.max_epochs == epochs
        assert cfg.param_scheduler[1].milestones == {12: [9, 11], 24: [18, 22], 120: [90, 110]}[epochs]
        assert len(model.bbox_head.wh) == (2 if name[1] == 'r18' else 3)
        darknet = name[1] == 'd53'
        assert cfg.optim_wrapper.optimizer.lr == (0.015 if darknet else 0.016)
        assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == (96 if darknet else 128)


@pytest.mark.parametrize('backbone, frozen',
                         [('r18', ('conv1', 'bn1', 'layer1')), ('d53', ('conv1', 'conv_res_block1'))])
def test_stem_and_first_stage_are_frozen_from_the_start(backbone: str, frozen: tuple[str, ...]) -> None:
    model, _ = build(ROOT / f'projects/ttfnet/configs/ttfnet_{backbone}_1x_coco.py', 'meta')
    fixed = {name.split('.')[0] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert fixed == set(frozen)


def test_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    """As mmdetection 1.x grouped them: all biases but those of the backbone's norms."""
    model, cfg = build(ROOT / 'projects/ttfnet/configs/ttfnet_r18_1x_coco.py', 'meta')
    names = {id(p): n for n, p in model.named_parameters()}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        name = names[id(group['params'][0])]
        if not group['params'][0].requires_grad:
            continue
        doubled = name.endswith('.bias') and not name.startswith('backbone.')
        assert group['lr'] == pytest.approx(0.032 if doubled else 0.016), name
        assert group['weight_decay'] == pytest.approx(0 if doubled else 4e-4), name


def test_training_step_and_prediction() -> None:
    model, cfg = build(TINY)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    logs = [model.train_step(batch(64, model.bbox_head.num_classes), wrapper) for _ in range(2)]
    assert set(logs[0]) == {'loss', 'loss_heatmap', 'loss_bbox'} and all(torch.isfinite(x['loss']) for x in logs)
    loss = model(**model.data_preprocessor(batch(64, model.bbox_head.num_classes), True), mode='loss')
    model.zero_grad()
    sum(loss.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    results = model.eval().test_step(batch(64, 1))
    assert len(results) == 2 and len(results[0].pred_instances) <= 100
    boxes = results[0].pred_instances.bboxes
    assert (boxes >= 0).all() and (boxes <= 64).all()


def test_learns_one_image() -> None:
    """A few steps on one image find its boxes: loss, targets, optimizer and decoding fit together."""
    torch.manual_seed(1)
    model, _ = build(TINY)
    model.init_weights()
    data = batch(64, 1, images=1)
    data['inputs'][0][:] = 40
    for (x1, y1, x2, y2), colour in zip(data['data_samples'][0].gt_instances.bboxes.int().tolist(), (250, 140)):
        data['inputs'][0][:, y1:y2, x1:x2] = colour
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(40):
        inputs = model.data_preprocessor(data, True)
        loss = sum(model(**inputs, mode='loss').values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.bbox_head.predict(model.extract_feat(inputs['inputs']), inputs['data_samples'])[0]
    gt = data['data_samples'][0].gt_instances.bboxes
    assert bbox_overlaps(gt, found.bboxes[found.scores > 0.3]).max(dim=1).values.min() > 0.7


def test_exported_graph_has_no_nms() -> None:
    """Property 8: the graph decodes with a max-pool and a top-k, and gives what predict gives."""
    model, _ = build(TINY)
    model.init_weights()
    model.eval()
    model.forward = model.export_forward
    image = torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (image, ))
    ops = {str(node.target) for node in program.graph.nodes if node.op == 'call_function'}
    assert any('max_pool2d' in op for op in ops) and any('topk' in op for op in ops)
    assert not any('nms' in op or 'nonzero' in op for op in ops)
    torch.testing.assert_close(program.module()(image), model.export_forward(image))
    expected = model.bbox_head.predict_by_feat(*model.bbox_head(model.extract_feat(image)), [{'img_shape': (64, 96)}])
    boxes, scores, labels = program.module()(image)
    assert torch.equal(expected[0].scores, scores[0, :len(expected[0])])
    assert torch.equal(expected[0].labels, labels[0, :len(expected[0])])


@pytest.mark.parametrize('backbone', ['r18', 'd53'])
def test_converter_fills_the_whole_detector(backbone: str) -> None:
    """Every parameter of the detector comes from the right official one."""
    model, _ = build(ROOT / f'projects/ttfnet/configs/ttfnet_{backbone}_1x_coco.py', 'meta')
    ours = {name: torch.tensor(i) for i, name in enumerate(model.state_dict())}
    assert convert({official_name(k): v for k, v in ours.items()})['state_dict'] == ours


def test_converter_tool(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = tmp_path / 'official.pth', tmp_path / 'new' / 'converted.pth'
    torch.save({'meta': {'CLASSES': ('a', 'b', 'c')}, 'state_dict': official_state()}, source)
    assert main([str(source), str(target)]) == 0
    converted = torch.load(target, weights_only=True)
    assert len(converted['state_dict']) == len(official_state())
    assert converted['meta']['dataset_meta'] == {'classes': ('a', 'b', 'c')}
    assert 'legacy_plus_one=True' in capsys.readouterr().out


@pytest.mark.parametrize('content, message', [
    (None, 'does not exist'),
    (b'junk', 'cannot be read'),
    ({'state_dict': {'rpn_conv.weight': 0}}, "'rpn_conv.weight' is no parameter of an official TTFNet"),
])
def test_converter_refuses(content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / 'nowhere.pth'
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content:
        torch.save(content, source)
    with pytest.raises(SystemExit, match='2'):
        main([str(source), str(tmp_path / 'out.pth')])
    assert message in capsys.readouterr().err and not (tmp_path / 'out.pth').exists()


def official_name(name: str) -> str:
    """Name of a parameter in the official code, written down from its modules."""
    part = name.split('.')
    if name.startswith('neck.stages'):
        rest = '.'.join(part[4:]).replace('conv_offset', 'conv_offset_mask')
        return f'bbox_head.deconv_layers.{part[2]}.{part[3]}.{rest}'
    if name.startswith('neck.shortcuts'):
        return f'bbox_head.shortcut_layers.{part[2]}.layers.{".".join(part[3:])}'
    if name.startswith('bbox_head'):
        return name.replace('heatmap', 'hm')
    if part[1] == 'conv1' and len(part) == 4:
        return f'backbone.stem.{".".join(part[2:])}'
    if part[1].startswith('conv_res_block'):
        layer = f'backbone.layer{part[1][-1]}'
        if part[2] == 'conv':
            return f'{layer}.0.{".".join(part[3:])}'
        return f'{layer}.{int(part[2][3:]) + 1}.body.{int(part[3][-1]) - 1}.{".".join(part[4:])}'
    return name
