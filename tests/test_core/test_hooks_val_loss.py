"""Validation loss: right values, and no trace in the training."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmpapers.hooks.val_loss import NoLossPipeline, ValLossHook, frozen_state, loss_dataset, loss_mode, loss_pipeline

pytestmark = pytest.mark.core

LOAD, RESIZE, PACK = dict(type='LoadImageFromFile'), dict(type='Resize', scale=(8, 8)), dict(type='PackDetInputs')
PLAIN, MASKS = dict(type='LoadAnnotations', with_bbox=True), dict(type='LoadAnnotations', with_mask=True)


def build(path: Path, work_dir: Path, hook: dict | None, **changes) -> Runner:
    """A runner of a config file with one hook beside mmengine's; checkpoints off."""
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=100, save_last=False)
    cfg.custom_hooks = [hook] if hook else []
    cfg.merge_from_dict(changes)
    return Runner.from_cfg(cfg)


def test_annotations_are_loaded_before_the_resize_as_training_does() -> None:
    assert loss_pipeline([LOAD, RESIZE, PLAIN, PACK], [LOAD, MASKS, RESIZE, PACK]) == [LOAD, MASKS, RESIZE, PACK]
    assert loss_pipeline([LOAD, RESIZE, PACK], [LOAD, PLAIN, PACK]) == [LOAD, PLAIN, RESIZE, PACK]
    assert loss_pipeline([LOAD, RESIZE, PLAIN, PACK], []) == [LOAD, PLAIN, RESIZE, PACK]


def test_a_3d_pipeline_is_that_of_training_without_its_random_transforms() -> None:
    load, labels = dict(type='LoadPointsFromFile'), dict(type='LoadAnnotations3D')
    crop, pack = dict(type='PointsRangeFilter'), dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d'])
    train = [load, labels, dict(type='ObjectSample'), dict(type='RandomFlip3D'), dict(type='GlobalRotScaleTrans'),
             crop, dict(type='PointShuffle'), pack]
    val = dict(type='KittiDataset', test_mode=True, pipeline=[load, dict(type='Pack3DDetInputs', keys=['points'])])
    found = loss_dataset(val, dict(type='RepeatDataset', dataset=dict(type='KittiDataset', pipeline=train)))
    assert found['pipeline'] == [load, labels, crop, pack]
    assert found['test_mode'] is False and found['filter_empty_gt'] is False
    assert val['test_mode'] is True


def test_wrapped_data_sets_and_a_given_pipeline() -> None:
    leaf = dict(type='CocoDataset', pipeline=[LOAD, RESIZE, PLAIN, PACK])
    found = loss_dataset(dict(type='ConcatDataset', datasets=[leaf, leaf]), None)
    assert [d['pipeline'] for d in found['datasets']] == [[LOAD, PLAIN, RESIZE, PACK]] * 2
    assert loss_dataset(leaf, None, [LOAD, MASKS, PACK])['pipeline'] == [LOAD, MASKS, PACK]


def test_where_no_pipeline_can_be_derived_it_is_said() -> None:
    with pytest.raises(NoLossPipeline, match='neither train_dataloader nor val_dataloader'):
        loss_pipeline([LOAD, RESIZE, PACK], [LOAD, PACK])
    with pytest.raises(NoLossPipeline, match='no transform that loads an image'):
        loss_pipeline([PLAIN, PACK], [])


def test_values_equal_a_naive_loop_over_the_training_pipeline(detection_config: Path, tmp_path: Path) -> None:
    """The fixture trains and validates on the same images without random transforms, so the losses must agree."""
    runner = build(detection_config, tmp_path, dict(type='mmpapers.ValLossHook'), **{'train_cfg.max_epochs': 1})
    runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {name.removeprefix('val/'): float(scalars[name].current()) for name in scalars if 'val/loss' in name}
    model = runner.model
    loss_mode(model)
    expected = []
    with torch.no_grad():
        for batch in runner.train_dataloader:
            data = model.data_preprocessor(batch, True)
            expected.append(model.parse_losses(model(**data, mode='loss'))[1])
    for name in ('loss', 'loss_cls', 'loss_bbox', 'loss_centerness'):
        assert metrics[name] == pytest.approx(float(np.mean([float(e[name]) for e in expected])), rel=1e-6)
    assert set(metrics) == set(expected[0])


def test_training_is_bit_identical_with_and_without_the_hook(segmentation_config: Path, tmp_path: Path) -> None:
    """Batch norm, dropout and random crops: weights, statistics and random states must not move."""
    states, draws = [], []
    for name, hook in (('with', dict(type='mmpapers.ValLossHook')), ('without', None)):
        runner = build(segmentation_config, tmp_path / name, hook)
        runner.train()
        states.append(runner.model.state_dict())
        draws.append((torch.rand(3), np.random.rand(3), random.random(), runner.model.training))
        assert ('val/loss' in runner.message_hub.log_scalars) == (hook is not None)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert any('running_mean' in key for key in states[0])
    assert torch.equal(draws[0][0], draws[1][0]) and (draws[0][1] == draws[1][1]).all()
    assert draws[0][2:] == draws[1][2:]


def test_frozen_state_restores_buffers_modes_and_generators() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    mean = model[1].running_mean
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), mean.clone()
    with frozen_state(model):
        model.train()
        model(torch.randn(2, 3, 4, 4))
        model[1]._buffers['running_mean'] = torch.ones(4)
        np.random.rand()
        random.random()
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert model[1].running_mean is mean and torch.equal(mean, before[3])
    assert model.training and model[1].training and not model[2].training


def test_loss_mode_keeps_branches_of_training_and_freezes_what_is_random() -> None:
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.MultiheadAttention(2, 1, dropout=0.5))
    loss_mode(model)
    assert model.training and model[0].training
    assert not model[0][0].training and not model[0][1].training and not model[1].training


@MODELS.register_module()
class FailsOnVal(BaseModel):
    """Trains, but has no loss for a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: list, data_samples: list | None = None, mode: str = 'loss') -> dict:
        raise ValueError('this head needs a teacher')


def test_a_failing_loss_is_reported_once_and_training_goes_on(detection_config: Path, tmp_path: Path) -> None:
    runner = build(detection_config, tmp_path, dict(type='mmpapers.ValLossHook'))
    hook = next(h for h in runner.hooks if isinstance(h, ValLossHook))
    warned = []
    runner.logger.warning = warned.append
    runner.model = FailsOnVal()
    metrics: dict[str, float] = dict(mAP=1.)
    hook.after_val_epoch(runner, metrics)
    hook.after_val_epoch(runner, metrics)
    assert metrics == dict(mAP=1.) and len(warned) == 1
    assert 'validation loss is off: this head needs a teacher' in warned[0] and 'ValLossHook=False' in warned[0]
