"""Both stages in one run: learning before the training, its traces, resuming, and pictures of masks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmpapers.distill import DistillError
from mmpapers.distill.overlay import expand
from mmpapers.projects.maskd import draw
from mmpapers.projects.maskd.learner import MaskLearner
from mmpapers.projects.maskd.learning import MaskTraining, learn

pytestmark = pytest.mark.det


@DATASETS.register_module(force=True)
class NoisyImages(Dataset):
    """A labelled image with noise of all three generators."""

    metainfo: dict = {}
    batch: dict = {}  # what the data set is made of

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        image, sample = self.batch['inputs'][index % 2], self.batch['data_samples'][index % 2]
        noise = torch.rand(1).item() + np.random.rand()
        return dict(inputs=(image.float() * (0.4 + 0.3 * noise)).to(torch.uint8), data_samples=sample.clone())


@pytest.fixture
def run(tiny_pair: Callable, tmp_path: Path) -> Callable[..., Runner]:
    """Train a tiny student for some steps in a work dir."""
    def train(name: str, steps: int = 4, resume: bool = False, **settings: Any) -> Runner:
        student, teacher, batch = tiny_pair('dense')
        student.pop('_scope_')
        NoisyImages.batch = batch()
        loader = dict(batch_size=2, num_workers=0, dataset=dict(type='mmengine.NoisyImages'),
                      sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='pseudo_collate'))
        cfg = Config(dict(
            model=student, default_scope='mmdet', work_dir=str(tmp_path / name), resume=resume, randomness=dict(seed=5),
            distill=dict(type='mmpapers.MasKD', teacher=teacher, checkpoint='random', custom_mask_warmup=2) | settings,
            train_dataloader=loader, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps),
            experiment_name=f'{name}-{tmp_path.name}-{resume}-{len(list(tmp_path.rglob("*.py")))}',
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            log_processor=dict(by_epoch=False), log_level='ERROR'))
        expand(cfg)
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner
    return train


def _equal(first: Runner, second: Runner) -> bool:
    one, other = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_run_does_both_stages_and_the_student_does_not_notice(run: Callable, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = run('whole', masks=dict(iters=3, pictures=1))
    loss = whole.model.helpers['maskd']
    assert loss.learned
    assert not any(p.requires_grad for p in loss.parameters())
    assert [file.name for file in (tmp_path / 'whole/masks').iterdir()] == ['0.jpg']
    state = torch.load(tmp_path / 'whole/masks.pth')['state_dict']
    assert all(name == 'signature' or name.startswith('masks.') for name in state)
    assert torch.equal(state['masks.0.tokens'], loss.masks[0].tokens)

    before = (tmp_path / 'whole/masks.pth').stat().st_mtime_ns
    again = run('whole')
    assert _equal(whole, again), 'masks learned in the run and masks from its file must train the same student'
    assert (tmp_path / 'whole/masks.pth').stat().st_mtime_ns == before

    (tmp_path / 'whole/masks.pth').rename(tmp_path / 'moved.pth')
    half = run('half', steps=2, masks=dict(file=str(tmp_path / 'moved.pth')))
    assert not _equal(whole, half)
    (tmp_path / 'moved.pth').unlink()
    resumed = run('half', resume=True, masks=dict(file=str(tmp_path / 'moved.pth')))
    assert resumed.iter == 4
    assert not (tmp_path / 'moved.pth').exists()
    assert torch.equal(resumed.model.helpers['maskd'].masks[0].tokens, loss.masks[0].tokens)


def test_weight_0_needs_no_masks(run: Callable, tmp_path: Path) -> None:
    run('off', steps=1, weight=0.)
    assert not (tmp_path / 'off/masks.pth').exists()


@pytest.fixture
def learner(tiny_pair: Callable) -> tuple[MaskLearner, Callable[[], dict]]:
    """A learner of a tiny detector's masks and a function that gives batches."""
    _, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    return MaskLearner(teacher, 'random'), batch


def test_learning_separates_masks_and_averages_nothing_else(learner: tuple) -> None:
    model, batch = learner
    said: list[str] = []
    learn(model, iter(batch, None), MaskTraining(iters=12), said.append)
    first, last = (float(line.rpartition(' ')[2]) for line in (said[0], said[-1]))
    assert last < first
    assert said[0].startswith('masks: step 1 of 12  task loss ')
    assert not any(p.requires_grad for p in model.parameters())


def test_a_loss_that_is_not_finite_stops_learning(learner: tuple) -> None:
    model, batch = learner
    model.masks[0].tokens.data.fill_(math.nan)
    with pytest.raises(DistillError, match='step 1 of learning masks: the loss is not finite .*optimizer.lr'):
        learn(model, iter(batch, None), MaskTraining(iters=3), lambda text: None)
    assert not any(p.requires_grad for p in model.parameters())


def test_schedules() -> None:
    cosine = MaskTraining(iters=10)
    assert [0.01 * cosine.rate(step) for step in (0, 5, 10)] == pytest.approx([0.01, (0.01 + 1e-6) / 2, 1e-6])
    poly = MaskTraining.build({}, segmentation=True)
    assert (poly.iters, poly.optimizer['type'], poly.schedule) == (10000, 'SGD', 'poly')
    assert [poly.rate(step) for step in (0, 5000, 10000)] == pytest.approx([1, 0.5**0.9, 0])


def test_a_tile_is_red_where_the_mask_is_open_and_blue_where_it_is_shut() -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[:, 30:] = 1
    picture = draw.tile(np.full((40, 60, 3), 128, np.uint8), mask, 'token 0')
    assert picture.shape == (40 + 16, 60, 3)
    shut, open_ = picture[30, 10].astype(int), picture[30, 50].astype(int)
    assert shut[0] > shut[2] + 50
    assert open_[2] > open_[0] + 50
    assert (picture[:16] < 128).any()


def test_a_sheet_has_a_row_a_level_and_a_column_a_token(learner: tuple, tmp_path: Path) -> None:
    model, batch = learner
    files = draw.sheet(model, batch(), tmp_path / 'pictures', images=2)
    assert [file.name for file in files] == ['0.jpg', '1.jpg']
    height, width = cv2.imread(str(files[0])).shape[:2]
    assert (height, width) == (3 * (220 + 16), 7 * 220)
    assert draw.sheet(model, dict(inputs=dict(points=[]), data_samples=[]), tmp_path, 1) == []


def test_the_tool_draws_the_masks_of_a_config(learner: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture, tiny_pair: Callable) -> None:
    model, batch = learner
    NoisyImages.batch = batch()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'iter_20.pth')
    cfg = Config(dict(default_scope='mmdet', model=dict(type='mmpapers.MaskLearner', teacher=tiny_pair('dense')[1],
                                                        checkpoint='random'),
                      val_dataloader=dict(dataset=dict(type='mmengine.NoisyImages'), num_workers=0,
                                          sampler=dict(type='DefaultSampler', shuffle=False),
                                          collate_fn=dict(type='pseudo_collate'))))
    monkeypatch.setattr('mmpapers.cli.runtime.read_config', lambda path, options: cfg)
    monkeypatch.setattr('mmpapers.projects.maskd.masks.signature', lambda teacher: int(model.signature))
    assert draw.main(['stage1.py', str(tmp_path / 'iter_20.pth'), '--out', str(tmp_path / 'out'), '--images', '1']) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / 'out/0.jpg')
    assert (tmp_path / 'out/0.jpg').is_file()
    assert draw.main(['stage1.py']) == 2
    assert 'which masks' in capsys.readouterr().err
