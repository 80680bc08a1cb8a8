"""A run that is interrupted and resumed equals one that was not, bit for bit.

Run as a script this file trains in a process of its own, which the tests kill:
``python test_resume.py WORK_DIR {epoch,iter} WORKERS STEPS``.
"""

import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmpapers import compat
from mmpapers.compat import loader, saving
from mmpapers.hooks.checkpoint import find_latest

pytestmark = pytest.mark.core


@DATASETS.register_module(force=True)
class ResumeData(Dataset):
    """Samples with augmentation from all three generators; ``seen`` counts what this process loaded."""

    seen: list = []
    metainfo = {'classes': ('a', 'b')}

    def __len__(self) -> int:
        return 17

    def __getitem__(self, index: int) -> dict:
        ResumeData.seen.append(int(index))
        x = torch.arange(4.) + index
        if random.random() < 0.5:
            x = x.flip(0)
        return {'inputs': x / 17 + np.random.rand() + torch.rand(4), 'index': int(index)}


@MODELS.register_module(force=True)
class ResumeNet(BaseModel):
    """Linear, batch norm and dropout: parameters, buffers and random draws in the step."""

    order: list = []

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5),
                                       torch.nn.Linear(8, 1))

    def forward(self, inputs: list, index: list, mode: str = 'tensor') -> dict | torch.Tensor:
        ResumeNet.order.append([int(i) for i in index])
        out = self.net(torch.stack(list(inputs)))
        return {'loss': (out - 1).square().mean()} if mode == 'loss' else out


def config(work_dir: Path, kind: str, workers: int, steps: int, every: int = 2, **changes) -> Config:
    """A run of ``steps`` steps; batches of 3 out of 17 samples give 6 steps an epoch."""
    by_epoch = kind == 'epoch'
    default_hooks = {'checkpoint': {'type': 'mmpapers.SafeCheckpointHook', 'by_epoch': False, 'interval': every}}
    sampler = {'type': 'InfiniteSampler' if kind == 'infinite' else 'DefaultSampler', 'shuffle': True}
    return Config({
        'model': {'type': 'ResumeNet'}, 'work_dir': str(work_dir), 'default_hooks': default_hooks,
        'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.1}],
        'train_dataloader': {'batch_size': 3, 'num_workers': workers, 'sampler': sampler,
                             'dataset': {'type': 'ResumeData'}},
        'train_cfg': {'by_epoch': True, 'max_epochs': -(-steps // 6)} if by_epoch else
                     {'by_epoch': False, 'max_iters': steps},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        'param_scheduler': [{'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 9},
                            {'type': 'StepLR', 'step_size': 1, 'gamma': 0.5, 'by_epoch': by_epoch, 'end': 10**6}],
        'randomness': {'seed': 7}, 'default_scope': 'mmengine', 'log_level': 'ERROR', **changes})


@pytest.fixture(autouse=True, scope='module')
def _quick() -> Iterator[None]:
    """One thread for tiny tensors, and no report on compilers and devices at each start of a Runner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        yield
    torch.set_num_threads(threads)


class Stop(Exception):
    """Raised inside a run in the place of a crash."""


def train(cfg: Config, stop_after: int | None = None) -> dict:
    """Train in this process; return everything that a further step would depend on."""
    cfg.experiment_name = f'{Path(cfg.work_dir).name}_{time.time_ns()}'
    runner = Runner.from_cfg(cfg)
    if stop_after is not None:
        hook = runner._hooks[0]
        stock = hook.after_train_iter

        def after_train_iter(runner, *args, **kwargs):
            if runner.iter == stop_after:
                raise Stop
            stock(runner, *args, **kwargs)
        hook.after_train_iter = after_train_iter
    ResumeData.seen, ResumeNet.order = [], []
    if stop_after is None:
        runner.train()
    else:
        with pytest.raises(Stop):
            runner.train()
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    if isinstance(getattr(runner.train_loop, 'dataloader_iterator', None), loader.LazyIterator):
        runner.train_loop.dataloader_iterator.close()
    return {'model': runner.model.state_dict(), 'ema': ema.ema_model.state_dict(),
            'momentum': runner.optim_wrapper.optimizer.state_dict(), 'order': ResumeNet.order,
            'schedule': [s.state_dict() for s in runner.param_schedulers]}


def same(a: dict, b: dict) -> None:
    """Every tensor equal to the last bit, every number equal."""
    for key in ('model', 'ema'):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][k], b[key][k]) for k in a[key]), key
    for mine, other in zip(a['momentum']['state'].values(), b['momentum']['state'].values(), strict=True):
        assert torch.equal(mine['momentum_buffer'], other['momentum_buffer'])
    assert a['schedule'] == b['schedule']


@pytest.fixture(scope='module')
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """12 steps without interruption and without workers, by kind of loop and sampler."""
    @functools.cache
    def run(kind: str) -> dict:
        return train(config(tmp_path_factory.mktemp(kind), kind, 0, 12, every=100))
    return run


@pytest.mark.parametrize(('kind', 'workers', 'crash'), [
    ('epoch', 0, 8), ('epoch', 0, 7), ('epoch', 2, 5), ('iter', 0, 2), ('iter', 2, 9), ('infinite', 0, 5),
    ('infinite', 2, 8)])
def test_interrupted_equals_straight(tmp_path: Path, straight: Callable[[str], dict], kind: str, workers: int,
                                     crash: int) -> None:
    """Cut within an epoch, at its end, or with a step made after the last checkpoint; workers or not."""
    train(config(tmp_path, kind, workers, 12), stop_after=crash)
    resumed = train(config(tmp_path, kind, workers, 12, resume=True))
    same(straight(kind), resumed)
    assert resumed['order'] == straight(kind)['order'][crash // 2 * 2:]


def test_workers_do_not_change_the_result(tmp_path: Path, straight: Callable[[str], dict]) -> None:
    """The same seed gives the same weights with any number of workers."""
    same(straight('iter'), train(config(tmp_path, 'iter', 2, 12)))


def test_draws_between_steps_do_not_change_the_result(tmp_path: Path, straight: Callable[[str], dict]) -> None:
    """Whatever validation or drawing takes from the generators has no influence on the next step."""
    runner = Runner.from_cfg(config(tmp_path, 'iter', 0, 12))
    stock = runner._hooks[0].after_train_iter
    runner._hooks[0].after_train_iter = lambda *args, **kwargs: (torch.rand(3), np.random.rand(), random.random(),
                                                                 stock(*args, **kwargs))
    runner.train()
    model = straight('iter')['model']
    assert all(torch.equal(value, model[key]) for key, value in runner.model.state_dict().items())


def test_epoch_checkpoint_resumes_at_the_next_epoch(tmp_path: Path) -> None:
    """Checkpoints by epoch, the usual detection recipe."""
    hooks = {'checkpoint': {'type': 'mmpapers.SafeCheckpointHook', 'interval': 1}}
    straight = train(config(tmp_path / 'a', 'epoch', 0, 18, default_hooks=hooks))
    train(config(tmp_path / 'b', 'epoch', 0, 18, default_hooks=hooks), stop_after=14)
    resumed = train(config(tmp_path / 'b', 'epoch', 0, 18, default_hooks=hooks, resume=True))
    same(straight, resumed)
    assert resumed['order'] == straight['order'][12:]


def test_workers_end_with_training(tmp_path: Path) -> None:
    """An endless loader leaves no worker behind, neither running nor to the garbage collector."""
    train(config(tmp_path, 'infinite', 2, 4))
    assert not multiprocessing.active_children()


def test_resume_loads_no_skipped_batch(tmp_path: Path) -> None:
    """Skipping happens at the sampler: after a resume only the batches still to train are read."""
    train(config(tmp_path, 'infinite', 0, 12), stop_after=9)
    train(config(tmp_path, 'infinite', 0, 12, resume=True))
    assert len(ResumeData.seen) == 3 * (12 - 8)


def test_resumed_epoch_knows_its_batch_numbers(tmp_path: Path) -> None:
    """Hooks of an epoch resumed in the middle see the true batch index."""
    train(config(tmp_path, 'epoch', 0, 12), stop_after=8)
    runner = Runner.from_cfg(config(tmp_path, 'epoch', 0, 12, resume=True))
    seen = []
    stock = runner._hooks[0].before_train_iter
    runner._hooks[0].before_train_iter = lambda runner, batch_idx, **kw: (
        seen.append((runner.iter, batch_idx)), stock(runner, batch_idx, **kw))
    runner.train()
    assert seen == [(8, 2), (9, 3), (10, 4), (11, 5)]


def test_ranks_share_the_augmentations() -> None:
    """Two processes with half the batch draw for each sample what one process draws."""
    def samples(rank: int, world: int, batch: int) -> dict:
        indices = list(range(12))[rank::world]
        batches = loader.ResumableBatches([indices[i:i + batch] for i in range(0, len(indices), batch)], 3, rank, world)
        fetch = loader.SeededFetch(ResumeData())
        return {s['index']: s['inputs'] for b in batches for s in fetch(b)}
    one = samples(0, 1, 4)
    two = {**samples(0, 2, 2), **samples(1, 2, 2)}
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert len({tuple(v.tolist()) for v in one.values()}) == 12


def test_fetch_leaves_the_generators_alone() -> None:
    """Loading in the main process does not move the generators that the model uses."""
    batch = loader.Numbered([1, 2])
    batch.key = (0, 0, 0, 1)
    before = torch.get_rng_state(), random.getstate()
    loader.SeededFetch(ResumeData())(batch)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_empty_loader_is_named() -> None:
    """A loader without a batch is an error and not a loop without end."""
    with pytest.raises(ValueError, match='train_dataloader yields no batch'):
        next(iter(loader.ResumableBatches([], 0, endless=True)))


def start(work_dir: Path, kind: str, workers: int, steps: int, slow: bool = False) -> subprocess.Popen:
    """Train in another process."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'SLOW_WRITE': '1' if slow else ''}
    return subprocess.Popen([sys.executable, __file__, str(work_dir), kind, str(workers), str(steps)], env=env,
                            start_new_session=True)


def kill(process: subprocess.Popen) -> None:
    """``kill -9`` the process and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(('kind', 'workers', 'moment'), [('epoch', 0, 'write'), ('iter', 2, 'train')])
def test_kill_minus_9(tmp_path: Path, kind: str, workers: int, moment: str) -> None:
    """Killed while training or while writing: the last good checkpoint is found and the end is the same."""
    cut = tmp_path / 'cut'
    process = start(cut, kind, workers, 3000, slow=moment == 'write')
    deadline = time.time() + 60
    partial = cut / 'iter_6.pth.partial'
    while time.time() < deadline and process.poll() is None:
        if partial.exists() and partial.stat().st_size if moment == 'write' else (cut / 'iter_8.pth').exists():
            break
        time.sleep(0.002)
    assert process.poll() is None, 'the run ended before it could be killed'
    time.sleep(random.random() * 0.02)
    kill(process)
    found, notes = find_latest(cut)
    assert found is not None and saving.damage(found, deep=True) is None
    if moment == 'write':
        assert found.endswith('iter_4.pth') and len(notes) == 1 and 'iter_6.pth.partial' in notes[0]
    done = int(found.rpartition('_')[2].removesuffix('.pth'))
    steps = (done // 6 + 1) * 6
    same(train(config(cut, kind, 0, steps, resume=True)), train(config(tmp_path / 'straight', kind, 0, steps)))


if __name__ == '__main__':
    compat.setup()
    torch.set_num_threads(1)  # as in the process that compares: sums differ in the last bit otherwise
    if os.environ['SLOW_WRITE']:
        stock_save = torch.save

        def slow_save(checkpoint: dict, file) -> None:
            """Write in pieces; the third file takes a minute."""
            torch.save = stock_save
            if file.name.endswith('iter_6.pth.partial'):
                file.write(b'PK\x03\x04' + bytes(5000))
                file.flush()
                time.sleep(60)
            stock_save(checkpoint, file)
            torch.save = slow_save
        torch.save = slow_save
    Runner.from_cfg(config(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))).train()
