"""Several processes: equal to one with the whole batch, started by torchrun on CPU or by slurm."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmpapers.cli.train import main

pytestmark = pytest.mark.core
TOOLS = Path(__file__).resolve().parents[2] / 'tools'
OPTIONS = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'optim_wrapper.optimizer.lr=0.05']


def free_port() -> int:
    """A port that nobody listens on."""
    import socket
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint."""
    return torch.load(path, weights_only=True)['state_dict']


def validation(work_dir: Path) -> dict[str, str]:
    """Row of the only validation of a run."""
    path, = work_dir.glob('*/val.csv')
    row, = csv.DictReader(path.open())
    return row


def test_two_processes_equal_one_with_the_double_batch(detection_config: Path, tmp_path: Path) -> None:
    """FCOS divides its losses by the positives of all processes and its batch norm is frozen, so nothing may differ.

    Processes 0 and 1 see images (0, 2), (1, 3), ... and the single one (0, 1, 2, 3), ...: the same batches in another
    order, so only float addition differs.
    """
    environment = dict(os.environ, PYTHON=sys.executable, PORT=str(free_port()), OMP_NUM_THREADS='1')
    done = subprocess.run(
        ['bash', str(TOOLS / 'dist_train.sh'), str(detection_config), '2', '--no-check', '--work-dir',
         str(tmp_path / 'two'), '--cfg-options', *OPTIONS,
         'train_dataloader.batch_size=2', 'val_dataloader.batch_size=2'],
        env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'batch size 4 (2 per process x 2)' in done.stdout and done.stdout.count('trained 4 steps') == 1
    assert main([str(detection_config), '--no-check', '--work-dir', str(tmp_path / 'one'), '--cfg-options', *OPTIONS,
                 'train_dataloader.batch_size=4', 'val_dataloader.batch_size=4']) == 0
    two, one = weights(tmp_path / 'two/epoch_2.pth'), weights(tmp_path / 'one/epoch_2.pth')
    start = weights(tmp_path / 'one/epoch_1.pth')
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-4, atol=1e-6), name
    assert any(not torch.allclose(start[name], one[name], rtol=1e-3, atol=1e-5) for name in one), 'nothing was trained'
    two, one = (validation(tmp_path / name) for name in ('two', 'one'))
    assert two.keys() == one.keys() and float(one['loss']) > 0
    for name in set(one) - {'seconds', 'mode'}:
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4), name


@pytest.fixture
def srun(tmp_path: Path) -> dict[str, str]:
    """An environment whose ``srun`` prints its arguments, one a line."""
    fake = tmp_path / 'bin/srun'
    fake.parent.mkdir()
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    return dict(os.environ, PATH=f'{fake.parent}:{os.environ["PATH"]}', PYTHON='python')


def call(script: str, *arguments: str, **environment: str) -> list[str]:
    """Run a script and return what the fake srun was given."""
    done = subprocess.run(['bash', str(TOOLS / script), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_slurm_scripts_ask_for_what_was_said(srun: dict[str, str]) -> None:
    environment = dict(srun, GPUS='16', CPUS_PER_TASK='2', SRUN_ARGS='--time=1:00:00 --qos=high')
    given = call('slurm_train.sh', 'gpu', 'my job', 'a b.py', 'work dirs/x', '--amp', '--cfg-options', 'k=[1, 2]',
                 **environment)
    assert given[:2] == ['-p', 'gpu'] and '--job-name=my job' in given
    assert {'--ntasks=16', '--gres=gpu:8', '--ntasks-per-node=8', '--cpus-per-task=2', '--kill-on-bad-exit=1',
            '--time=1:00:00', '--qos=high'} <= set(given)
    command = given[given.index('python'):]
    assert command == ['python', '-u', str(TOOLS / 'train.py'), 'a b.py', '--work-dir=work dirs/x',
                       '--launcher=slurm', '--amp', '--cfg-options', 'k=[1, 2]']
    given = call('slurm_test.sh', 'cpu', 'job', 'a.py', 'b.pth', **dict(srun, GPUS='4', GPUS_PER_NODE='0'))
    assert '--ntasks-per-node=4' in given and not any(re.match('--gres', g) for g in given)
    assert given[-4:] == [str(TOOLS / 'test.py'), 'a.py', 'b.pth', '--launcher=slurm']


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_scripts_without_arguments_show_their_usage(script: str) -> None:
    done = subprocess.run(['bash', str(TOOLS / script)], capture_output=True, text=True)
    assert done.returncode == 2 and f'tools/{script} ' in done.stderr and 'set -' not in done.stderr
