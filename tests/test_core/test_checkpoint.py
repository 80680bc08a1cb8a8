"""Saving checkpoints: complete or not at all, the earlier ones safe, the last good one found."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import OneCycleLR
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmpapers.compat import checkpoint, saving
from mmpapers.hooks.checkpoint import SafeCheckpointHook, find_latest

pytestmark = pytest.mark.core


@DATASETS.register_module(force=True)
class CheckpointData(Dataset):
    """Four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return {'inputs': torch.ones(2) * index}


@MODELS.register_module(force=True)
class CheckpointNet(BaseModel):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs: list, mode: str = 'tensor') -> dict | list:
        out = self.layer(torch.stack(list(inputs)))
        return {'loss': out.square().mean()} if mode == 'loss' else [out]


@METRICS.register_module(force=True)
class CheckpointScore(BaseMetric):
    """A score that rises with every validation."""

    count = 0

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        CheckpointScore.count += 1
        return {'acc': float(CheckpointScore.count)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(CheckpointScore, 'count', 0)


def runner(work_dir: Path, steps: int = 4, val: bool = False, **hook) -> Runner:
    """A run that saves after every step."""
    loader = {'batch_size': 2, 'num_workers': 0, 'dataset': {'type': 'CheckpointData'},
              'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    resume = hook.pop('resume', False)
    load_from = hook.pop('load_from', None)
    cfg = {'model': {'type': 'CheckpointNet'}, 'work_dir': str(work_dir), 'train_dataloader': loader,
           'train_cfg': {'by_epoch': False, 'max_iters': steps, 'val_interval': 1},
           'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}}, 'default_scope': 'mmengine',
           'default_hooks': {'checkpoint': {'type': 'mmpapers.SafeCheckpointHook', 'by_epoch': False, 'interval': 1,
                                            **hook}},
           'experiment_name': f'{work_dir.name}_{time.time_ns()}', 'log_level': 'WARNING', 'resume': resume,
           'load_from': load_from, 'randomness': {'seed': 0}}
    if val:
        cfg.update(val_dataloader=loader, val_cfg={}, val_evaluator={'type': 'CheckpointScore'})
    return Runner.from_cfg(Config(cfg))


def names(folder: Path) -> list[str]:
    """Checkpoint files and what is left of them."""
    return sorted(path.name for path in folder.iterdir() if '.pth' in path.name)


@contextlib.contextmanager
def full_disk(name: str) -> Iterator[None]:
    """Make writing of one file fail half-way, as on a full disk."""
    stock = torch.save

    def save(obj: dict, file) -> None:
        if name in file.name:
            file.write(b'PK\x03\x04' + bytes(1000))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        stock(obj, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'save', save)
        yield


def test_saving_is_complete_and_ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New file first, then last_checkpoint, then the outdated file goes."""
    events = []
    replace, remove = os.replace, SafeCheckpointHook._remove
    monkeypatch.setattr(os, 'replace', lambda a, b: (events.append(f'+{Path(b).name}'), replace(a, b)))
    monkeypatch.setattr(SafeCheckpointHook, '_remove', lambda self, path: (
        events.append(f'-{Path(path).name}'), remove(self, path)))
    runner(tmp_path, steps=3, max_keep_ckpts=1).train()
    assert events == ['+iter_1.pth', '+last_checkpoint', '+iter_2.pth', '+last_checkpoint', '-iter_1.pth',
                      '+iter_3.pth', '+last_checkpoint', '-iter_2.pth']
    assert names(tmp_path) == ['iter_3.pth'] and find_latest(tmp_path) == (str(tmp_path / 'iter_3.pth'), [])
    assert checkpoint.read(tmp_path / 'iter_3.pth')['message_hub']['runtime_info']['keep_ckpt_ids'] == [3]


def test_max_keep_is_kept_after_resume(tmp_path: Path) -> None:
    """The list of files to keep goes on in the resumed run."""
    runner(tmp_path, steps=3, max_keep_ckpts=2).train()
    runner(tmp_path, steps=5, max_keep_ckpts=2, resume=True).train()
    assert names(tmp_path) == ['iter_4.pth', 'iter_5.pth']


def test_full_disk_stops_and_keeps(tmp_path: Path) -> None:
    """One sentence with reason, file and way on; the last good checkpoint stays though only one is kept."""
    with full_disk('iter_3.pth'), pytest.raises(checkpoint.CheckpointError) as caught:
        runner(tmp_path, max_keep_ckpts=1).train()
    message = str(caught.value)
    assert 'No space left on device' in message and 'iter_3.pth' in message and '--resume' in message
    assert '\n' not in message and names(tmp_path) == ['iter_2.pth']
    assert find_latest(tmp_path) == (str(tmp_path / 'iter_2.pth'), [])
    runner(tmp_path, max_keep_ckpts=1, resume=True).train()
    assert names(tmp_path) == ['iter_4.pth']


def test_full_disk_from_torch_itself(tmp_path: Path) -> None:
    """torch hides the system's reason; a real limit on the file size shows that it is found."""
    done = subprocess.run([sys.executable, '-c', f'''
import resource, signal, torch
from mmpapers.compat import saving
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
try:
    saving.write({{'w': torch.zeros(300000)}}, {str(tmp_path / 'a.pth')!r})
except Exception as error:
    print(type(error).__name__, error)
'''], capture_output=True, text=True)
    assert done.stdout.startswith('CheckpointError') and 'File too large' in done.stdout, done.stderr
    assert names(tmp_path) == []


def test_best_survives_a_failed_better_one(tmp_path: Path) -> None:
    """The previous best goes only after the new best is there."""
    with full_disk('best_acc_iter_3.pth'), pytest.raises(checkpoint.CheckpointError, match='best_acc_iter_3'):
        runner(tmp_path, val=True, save_best='acc').train()
    assert [name for name in names(tmp_path) if 'best' in name] == ['best_acc_iter_2.pth']
    runner(tmp_path, val=True, save_best='acc', resume=True).train()
    assert [name for name in names(tmp_path) if 'best' in name] == ['best_acc_iter_4.pth']


def test_interrupt_leaves_nothing_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a checkpoint is written: the partial file goes, the earlier one stays."""
    stock = torch.save

    def save(obj: dict, file) -> None:
        if 'iter_2' in file.name:
            file.write(b'PK')
            raise KeyboardInterrupt
        stock(obj, file)
    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path).train()
    assert names(tmp_path) == ['iter_1.pth']


def test_a_new_run_overwrites_nothing(tmp_path: Path) -> None:
    """A second run in the same folder moves the first one's files of the same name aside."""
    runner(tmp_path, steps=2).train()
    first = (tmp_path / 'iter_2.pth').read_bytes()
    saving._written.clear()  # the second run is another process
    runner(tmp_path, steps=2).train()
    earlier, = {path.parent for path in tmp_path.glob('earlier_*/iter_2.pth')}
    assert (earlier / 'iter_2.pth').read_bytes() == first and (tmp_path / 'iter_2.pth').is_file()


def test_a_resumed_run_overwrites_nothing(tmp_path: Path) -> None:
    """Checkpoints and logs of the first part are byte for byte what they were."""
    runner(tmp_path, steps=2).train()
    saving._written.clear()
    files = [path for path in tmp_path.rglob('*') if path.is_file() and path.name != 'last_checkpoint']
    part = {path: path.read_bytes() for path in files}
    time.sleep(1.1)  # log folders are named by the second
    runner(tmp_path, steps=4, resume=True).train()
    changed = [path.name for path, data in part.items() if path.read_bytes() != data]
    assert [name for name in changed if not name.endswith('.py')] == []
    assert names(tmp_path) == [f'iter_{i}.pth' for i in (1, 2, 3, 4)]


def test_find_latest_passes_over_bad_files(tmp_path: Path) -> None:
    """Truncated, damaged and partial files are named and left where they are; the newest whole one is taken."""
    for number in (1, 2, 3, 4):
        torch.save({'w': torch.zeros(4000)}, tmp_path / f'iter_{number}.pth')
        os.utime(tmp_path / f'iter_{number}.pth', (number, number))
    torch.save({}, tmp_path / 'best_acc_iter_4.pth')
    whole = (tmp_path / 'iter_4.pth').read_bytes()
    (tmp_path / 'iter_4.pth').write_bytes(whole[:9000])
    os.utime(tmp_path / 'iter_4.pth', (4, 4))
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    (tmp_path / 'iter_3.pth').write_bytes(broken)
    os.utime(tmp_path / 'iter_3.pth', (3, 3))
    (tmp_path / 'iter_5.pth.partial').write_bytes(whole[:50])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    before = names(tmp_path)
    found, notes = find_latest(tmp_path)
    assert found == str(tmp_path / 'iter_2.pth') and names(tmp_path) == before
    assert [name in note for name, note in zip(('iter_5.pth.partial', 'iter_4.pth', 'iter_3.pth'), notes, strict=True)]
    assert 'truncated' in notes[1] and 'damaged' in notes[2]


@pytest.mark.parametrize('text', ['', None, 'moved'])
def test_find_latest_without_a_good_pointer(tmp_path: Path, text: str | None) -> None:
    """An empty or absent last_checkpoint, and a folder that was moved."""
    torch.save({}, tmp_path / 'epoch_3.pth')
    if text is not None:
        (tmp_path / 'last_checkpoint').write_text(text and '/no/such/folder/epoch_3.pth')
    assert find_latest(tmp_path) == (str(tmp_path / 'epoch_3.pth'), [])


def test_find_latest_in_an_empty_folder(tmp_path: Path) -> None:
    """Nothing to resume from is None, in a folder that does not exist too."""
    assert find_latest(tmp_path) == (None, []) and find_latest(tmp_path / 'absent') == (None, [])


def test_resume_passes_over_a_torn_file(tmp_path: Path) -> None:
    """mmengine's own ``resume=True`` uses the last good file."""
    runner(tmp_path, steps=3).train()
    file = tmp_path / 'iter_3.pth'
    file.write_bytes(file.read_bytes()[:3000])
    resumed = runner(tmp_path, steps=4, resume=True)
    resumed.load_or_resume()
    assert resumed.iter == 2


def test_resume_from_weights_is_refused(tmp_path: Path) -> None:
    """A published file has no state of a run; the message says what to do."""
    file = tmp_path / 'weights.pth'
    torch.save({'state_dict': {}}, file)
    with pytest.raises(checkpoint.CheckpointError, match='weights without the state of a run') as caught:
        runner(tmp_path, resume=True, load_from=str(file)).train()
    assert str(file) in str(caught.value) and 'load_from' in str(caught.value)


def test_other_storage_is_left_to_mmengine() -> None:
    """Remote targets and explicit backends go through mmengine's own function."""
    calls = []
    saving._save_checkpoint(lambda *args: calls.append(args), {}, 's3://bucket/a.pth')
    saving._save_checkpoint(lambda *args: calls.append(args), {}, 'a.pth', None, {'backend': 'local'})
    assert [call[1] for call in calls] == ['s3://bucket/a.pth', 'a.pth']


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_schedulers_keep_functions_out_of_the_checkpoint(tmp_path: Path, strategy: str) -> None:
    """A one-cycle schedule is saved without its function, loads with weights only, and goes on as if never stopped."""
    def schedule() -> OneCycleLR:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        return OneCycleLR(optimizer, eta_max=0.1, total_steps=8, by_epoch=False, anneal_strategy=strategy)

    def go_on(scheduler: OneCycleLR, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            scheduler.optimizer.step()
            scheduler.step()
            rates += scheduler.get_last_value()
        return rates

    straight, first, second = schedule(), schedule(), schedule()
    expected = go_on(straight, 7)
    rates = go_on(first, 3)
    saving.write({'param_schedulers': [first.state_dict()], 'optimizer': first.optimizer.state_dict()},
                 tmp_path / 'iter_3.pth')
    loaded = checkpoint.read(tmp_path / 'iter_3.pth')
    second.optimizer.load_state_dict(loaded['optimizer'])
    second.load_state_dict(loaded['param_schedulers'][0])
    assert rates + go_on(second, 4) == expected and len(set(expected)) > 4
