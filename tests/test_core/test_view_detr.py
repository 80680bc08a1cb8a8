"""Tools for DETRs: pictures of the decoder, checkpoints without what only training needs, the cost of a step."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpapers.cli import benchmark_matching, benchmark_steps, strip_query_sets, view_detr
from mmpapers.layers.query_sets import TRAINING_ONLY
from mmpapers.visualization import detr

pytestmark = pytest.mark.core
REPOSITORY = Path(__file__).parents[2]


def _shrunk(name: str) -> dict:
    """A small base of configs/detr at a width that takes no time."""
    model = Config.fromfile(REPOSITORY / f'configs/detr/{name}_r18_bccd-cpu.py').model.to_dict()
    model['backbone'].update(base_channels=8, stem_channels=8)
    model['neck']['in_channels'] = [width // 8 for width in model['neck']['in_channels']]
    model['num_queries'] = 12
    model['test_cfg'] = dict(max_per_img=10)
    for coder in ('encoder', 'decoder'):
        model[coder]['num_layers'] = 2
    return model


def _build(model: dict, seed: int = 0) -> nn.Module:
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    built = MODELS.build(Config(dict(model=copy.deepcopy(model))).model)
    built.init_weights()
    return built.eval()


def _sample(model: nn.Module) -> tuple[torch.Tensor, list]:
    from mmdet.testing import demo_mm_inputs
    torch.manual_seed(1)
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 96, 128]], num_items=[4], num_classes=3), False)
    return data['inputs'], data['data_samples']


@pytest.mark.parametrize('name', ['deformable-detr', 'dab-detr', 'conditional-detr'])
def test_attention_is_what_the_last_layer_used(name: str) -> None:
    model = _build(_shrunk(name))
    inputs, samples = _sample(model)
    with torch.no_grad():
        expected = model(inputs, samples, mode='tensor')
    decoded, raw = detr.decode(model, inputs, samples)
    assert torch.equal(raw[0], expected[0])
    assert torch.equal(raw[1], expected[1])
    weights = decoded.attention.weights
    assert len(weights) == 12
    torch.testing.assert_close(weights.sum(1), torch.ones(12))  # a mean of distributions
    if name == 'deformable-detr':
        assert decoded.attention.points.shape == (*weights.shape, 2)
    else:
        assert weights.shape[1] == np.prod(decoded.attention.shape)
    assert 'forward_attn' not in model.decoder.layers[-1].cross_attn.__dict__


def test_sampling_points_are_those_that_the_operator_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcv.ops import multi_scale_deform_attn
    model = _build(_shrunk('deformable-detr'))
    inputs, samples = _sample(model)
    seen = []
    own = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch

    def spy(value: torch.Tensor, shapes: torch.Tensor, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append((points, weights))
        return own(value, shapes, points, weights)
    monkeypatch.setattr(multi_scale_deform_attn, 'multi_scale_deformable_attn_pytorch', spy)
    decoded, _ = detr.decode(model, inputs, samples)
    points, weights = (part[0].cpu() for part in seen[-1])  # (Q, heads, levels, points, ...)
    torch.testing.assert_close(decoded.attention.points, points.flatten(1, 3))
    torch.testing.assert_close(decoded.attention.weights, weights.flatten(1) / weights.shape[1])


def test_each_set_has_its_matches() -> None:
    plain = _shrunk('deformable-detr')
    hybrid = dict(plain, type='mmpapers.HybridDeformableDETR', num_one2many=40,
                  bbox_head=dict(plain['bbox_head'], type='mmpapers.HybridDeformableDETRHead', k_one2many=5))
    groups = dict(_shrunk('dab-detr'), type='mmpapers.GroupDABDETR', num_query_groups=3)
    for config, wanted in ((plain, dict(queries=4)), (hybrid, dict(one2one=4, one2many=20)),
                           (groups, dict(group0=4, group1=4, group2=4))):
        model = _build(config)
        inputs, samples = _sample(model)
        decoded, raw = detr.decode(model, inputs, samples, training=True)
        assert not model.training
        found = detr.matches(model, raw, samples[0], decoded.sets)
        assert {name: len(pairs) for name, pairs in found.items()} == wanted
        for name, pairs in found.items():
            assert {query for query, _ in pairs} <= set(decoded.sets[name])
            assert sorted(gt for _, gt in pairs) == sorted(list(range(4)) * (wanted[name] // 4))


def _file(folder: Path, data: Path, name: str, model: dict, distill: dict | None = None) -> Path:
    """Config and checkpoint of an untrained model on the small detection set."""
    model['bbox_head']['num_classes'] = 2
    base = Config.fromfile(data)
    base.model = model
    if distill:
        base.distill = distill
    base.dump(folder / f'{name}.py')
    torch.save(dict(state_dict=_build(model).state_dict()), folder / f'{name}.pth')
    return folder / f'{name}.py'


def test_pictures_are_written(detection_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    teacher = _file(tmp_path, detection_config, 'teacher', _shrunk('dab-detr'))
    student = _file(tmp_path, detection_config, 'student', _shrunk('dab-detr'), dict(
        type='mmpapers.KDDETR', teacher=str(teacher), checkpoint=str(tmp_path / 'teacher.pth'), num_general=5))
    out = tmp_path / 'pictures'
    assert view_detr.main([str(student), str(tmp_path / 'student.pth'), '--out', str(out), '--images', '1',
                           '--queries', '2']) == 0
    for kind in ('attention', 'matches', 'teacher'):
        assert (out / f'000_{kind}.png').stat().st_size > 4000
    assert capsys.readouterr().out.count('.png') == 3
    assert view_detr.main([str(detection_config), str(tmp_path / 'student.pth')]) == 2
    assert 'is no DETR' in capsys.readouterr().err


def test_labels_meet_the_image_in_both_orders_of_the_pipeline(detection_config: Path) -> None:
    cfg = Config.fromfile(detection_config)
    init_default_scope('mmdet')
    steps = cfg.test_pipeline
    for pipeline in (steps, [steps[0], steps[2], steps[1], steps[3]]):
        cfg.val_dataloader.dataset.pipeline = pipeline
        batch = view_detr.batches(cfg, 'val', 1, 1)[0]
        boxes = view_detr._in_input(cfg, batch['data_samples'])[0].gt_instances.bboxes
        assert boxes.max() <= 64
        if pipeline is steps:
            first = boxes
    torch.testing.assert_close(first, boxes)


def test_a_stripped_checkpoint_is_the_plain_detectors(detection_config: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture) -> None:
    plain = _file(tmp_path, detection_config, 'plain', _shrunk('dab-detr'))
    _file(tmp_path, detection_config, 'groups', dict(_shrunk('dab-detr'), type='mmpapers.GroupDABDETR',
                                                     num_query_groups=3))
    out = tmp_path / 'out' / 'plain.pth'
    assert strip_query_sets.main([str(tmp_path / 'groups.pth'), str(out), '--plain', str(plain)]) == 0
    assert '2 of further query sets left out' in capsys.readouterr().out
    whole, state = (torch.load(path)['state_dict'] for path in (tmp_path / 'groups.pth', out))
    assert set(state) == {name for name in whole if not name.startswith(TRAINING_ONLY)}
    assert all(torch.equal(value, whole[name]) for name, value in state.items())
    assert strip_query_sets.main([str(tmp_path / 'groups.pth'), str(out), '--plain', str(detection_config)]) == 2
    assert 'is no checkpoint of' in capsys.readouterr().err
    assert strip_query_sets.main([str(tmp_path / 'missing.pth'), str(out)]) == 1
    assert 'does not exist' in capsys.readouterr().err


def test_the_cost_of_steps_is_compared(detection_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _file(tmp_path, detection_config, 'plain', _shrunk('dab-detr'))
    groups = _file(tmp_path, detection_config, 'groups', dict(
        _shrunk('dab-detr'), type='mmpapers.GroupDABDETR', num_query_groups=3))
    monkeypatch.setattr(torch, 'set_num_threads', lambda threads: None)
    monkeypatch.setattr(benchmark_steps, '_memory', lambda args, text, shape: 2**21 if 'groups' in text else 2**20)
    variants = [str(plain), str(groups), f'{groups}@model.attention=mask', f'{groups}@calls']
    options = ['--shape', '64', '--repeat', '1', '--batch-size', '2']
    assert benchmark_steps.main([*variants, *options]) == 0
    rows = [line.split(' | ') for line in capsys.readouterr().out.splitlines() if line.startswith('| ')][2:]
    assert [row[0].strip('| ') for row in rows] == ['plain.py', 'groups.py', 'groups.py@model.attention=mask',
                                                    'groups.py@calls']
    assert [row[4].strip('| ') for row in rows] == ['1.00', '2.00', '2.00', '2.00']
    assert benchmark_steps.main([f'{groups}@nothing', *options]) == 2
    assert 'is no setting' in capsys.readouterr().err


def test_matching_is_timed_both_ways(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'set_num_threads', lambda threads: None)
    few = ['--layers', '2', '--queries', '20', '--objects', '3', '--repeat', '1']
    assert benchmark_matching.main([*few, '--groups', '1', '3']) == 0
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines() if line.startswith('| ')][2:]
    assert [(row[0], row[2]) for row in rows] == [('1', '4'), ('3', '12')]
    assert benchmark_matching.main([*few, '--groups', '0']) == 2
    assert '--groups 0: give 1 or more' in capsys.readouterr().err
    assert benchmark_matching.main(['--objects', '0']) == 2


def test_calls_set_by_set_give_the_same_losses() -> None:
    model = _build(dict(_shrunk('dab-detr'), type='mmpapers.GroupDABDETR', num_query_groups=3)).train()
    inputs, samples = _sample(model)
    with torch.no_grad():
        expected = model.loss(inputs, samples)
        with benchmark_steps._one_call_a_set():
            found = model.loss(inputs, samples)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
