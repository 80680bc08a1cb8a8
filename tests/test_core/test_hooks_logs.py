"""CSV and JSON logs, curves, and the tool that compares runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmpapers.cli import plot_log
from mmpapers.hooks.curves import CurvesHook, Run, draw, find_logs, panels, read_run
from mmpapers.hooks.record import RecordHook

pytestmark = pytest.mark.core


class Counting(BaseModel):
    """Its loss at step k (from 1) is k; of two terms, k / 4 and 3 k / 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.step = 0

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'loss') -> dict[str, Tensor]:
        self.step += 1
        zero = self.layer.weight.sum() * 0
        return dict(loss_a=zero + self.step / 4, loss_b=zero + self.step * 3 / 4)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Log folder of 6 steps in 2 epochs, a row every 2 steps, curves at the end."""
    record = RecordHook()
    runner = Runner(
        Counting(), str(tmp_path / 'counting'), train_cfg=dict(by_epoch=True, max_epochs=2),
        train_dataloader=DataLoader([torch.zeros(1)] * 3, 1, collate_fn=lambda rows: dict(inputs=rows)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)), custom_hooks=[record, CurvesHook()],
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=2)),
        experiment_name=f'logs_{tmp_path.name}')
    runner.train()
    record.after_val_epoch(runner, dict(mAP=0.25, loss=float('nan'), names=['a']))
    return Path(runner.log_dir)


def test_rows_hold_means_since_the_last_row(run_dir: Path) -> None:
    rows = list(csv.DictReader((run_dir / 'train.csv').open()))
    assert [int(r['iter']) for r in rows] == [2, 3, 4, 6]  # every 2nd step, and the end of an epoch
    assert [int(r['epoch']) for r in rows] == [1, 1, 2, 2]
    assert [float(r['loss']) for r in rows] == [1.5, 3., 4., 5.5]
    assert [float(r['loss_b']) for r in rows] == pytest.approx([1.125, 2.25, 3., 4.125])
    assert all(float(r['lr']) == 0.5 for r in rows) and 'data_time' in rows[0]


def test_validations_have_rows_and_json_has_no_nan(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / 'log.jsonl').read_text().splitlines()]
    assert lines[0] == dict(mode='start', iter=0, epoch=0, max_iters=6)
    assert [line['mode'] for line in lines[1:]] == ['train'] * 4 + ['val']
    assert lines[-1]['mAP'] == 0.25 and lines[-1]['loss'] is None and 'names' not in lines[-1]
    assert next(csv.DictReader((run_dir / 'val.csv').open()))['loss'] == 'nan'


def test_a_new_column_keeps_the_rows_before_it(tmp_path: Path) -> None:
    hook = RecordHook()
    hook._folder = tmp_path
    hook._write('val', 1, 1, dict(a=1.))
    hook._write('val', 2, 1, dict(a=2., b=3.))
    rows = list(csv.DictReader((tmp_path / 'val.csv').open()))
    assert [r['a'] for r in rows] == ['1.0', '2.0'] and [r['b'] for r in rows] == ['', '3.0']


def test_curves_are_a_picture_with_something_in_it(run_dir: Path) -> None:
    picture = np.asarray(Image.open(run_dir / 'curves.png').convert('RGB'))
    assert picture.shape[0] > 300 and picture.shape[1] > 500
    blue = (np.abs(picture.astype(int) - (31, 119, 180)).sum(-1) < 30).sum()  # matplotlib's first colour
    assert blue > 300


def write_log(folder: Path, start: int, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    lines = [dict(mode='start', iter=start), *rows]
    (folder / 'log.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"mode": "tr')  # killed while writing
    return folder


def row(step: int, loss: float, mode: str = 'train', **more) -> dict:
    return dict(mode=mode, iter=step, epoch=1, loss=loss, **more)


def test_a_resumed_run_is_one_run_and_repeated_steps_count_once(tmp_path: Path) -> None:
    write_log(tmp_path / '20260101_000000', 0, [row(1, 9.)])
    write_log(tmp_path / '20260102_000000', 0, [row(1, 5.), row(2, 4.), row(3, 3.)])
    write_log(tmp_path / '20260103_000000', 2, [row(3, 2.), row(4, 1.)])
    logs = find_logs(tmp_path)
    assert [log.parent.name for log in logs] == ['20260102_000000', '20260103_000000']
    assert read_run(logs, 'x').train['loss'] == [(1, 5.), (2, 4.), (3, 2.), (4, 1.)]
    assert find_logs(tmp_path / '20260101_000000') == [tmp_path / '20260101_000000/log.jsonl']


def test_panels_and_absent_objects(tmp_path: Path) -> None:
    log = write_log(tmp_path / 'a', 0, [row(1, 2., loss_x=1., loss_y=1., lr=.1, base_lr=.1),
                                        row(1, 3., 'val', loss_x=1., **{'coco/mAP': .5, 'coco/mAP_l': -1})])
    run = read_run(log / 'log.jsonl', 'a')
    assert 'coco/mAP_l' not in run.val and 'base_lr' not in run.train
    assert panels([run]) == [('loss', ['loss', 'val/loss']),
                             ('loss terms (dashed: validation)', ['loss_x', 'val/loss_x', 'loss_y']),
                             ('learning rate', ['lr']), ('coco', ['val/coco/mAP'])]
    other = Run('b', train=run.train, val=dict(run.val, mIoU=[(1, 2.)]))
    assert panels([run, other])[-1] == ('val/coco/mAP', ['val/coco/mAP'])  # only what both have
    assert panels([run], ['^loss$', 'mAP']) == [('loss', ['loss']), ('val/coco/mAP', ['val/coco/mAP'])]


def test_smoothing_is_an_exponential_mean_without_bias(tmp_path: Path) -> None:
    from mmpapers.hooks.curves import _smoothed
    assert _smoothed([2., 2., 2.], 0.9) == pytest.approx([2., 2., 2.])
    assert _smoothed([0., 1.], 0.5) == pytest.approx([0., 0.5 / 0.75])


def test_the_tool_compares_runs(tmp_path: Path, capsys) -> None:
    for name in ('a', 'b'):
        write_log(tmp_path / name / '20260101_000000', 0, [row(1, 2.), row(2, 1.), row(2, 3., 'val')])
    out = tmp_path / 'compare.png'
    assert plot_log.main([str(tmp_path / 'a'), str(tmp_path / 'b'), '--out', str(out), '--smooth', '0.5']) == 0
    assert Image.open(out).size[0] > 300
    assert 'loss, val/loss' in capsys.readouterr().out
    assert plot_log.main([str(tmp_path / 'a')]) == 0
    assert (tmp_path / 'a/20260101_000000/curves.png').is_file()


@pytest.mark.parametrize('arguments, message', [
    (['nowhere'], 'holds no log.jsonl'),
    (['a', '--keys', 'mAP'], 'no series matches mAP; there are loss'),
    (['a', '--names', 'x', 'y'], '--names has 2 entries for 1 runs'),
    (['a', '--smooth', '1'], 'outside 0 to 1')])
def test_the_tool_says_what_is_wrong(tmp_path: Path, capsys, monkeypatch, arguments: list[str], message: str) -> None:
    write_log(tmp_path / 'a', 0, [row(1, 2.)])
    monkeypatch.chdir(tmp_path)
    assert plot_log.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error


def test_nothing_is_drawn_for_an_empty_run(tmp_path: Path) -> None:
    assert draw([Run('x')], tmp_path / 'x.png') == [] and not (tmp_path / 'x.png').exists()
