"""Manifest, progress, early stopping, and autocast on CPU."""

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmpapers.hooks.autocast import AutocastOptimWrapper
from mmpapers.hooks.early_stop import EarlyStopHook, UnknownMetricError
from mmpapers.hooks.manifest import ManifestHook, git_state, leaves, plain, sha256
from mmpapers.hooks.progress import ProgressHook, _clock, _count

pytestmark = pytest.mark.core


class Line(BaseModel):
    """y = a x + b; the loss is y squared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dtypes: set[torch.dtype] = set()

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'loss') -> dict[str, Tensor]:
        out = self.layer(torch.stack(list(inputs)))
        self.dtypes.add(out.dtype)
        return dict(loss=out.float().square().mean()) if mode == 'loss' else list(out)


class Scores:
    """An evaluator that answers with one score after the other."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.dataset_meta = iter(scores), None

    def process(self, data_samples: list, data_batch: dict) -> None:
        """Keep nothing."""

    def evaluate(self, size: int) -> dict[str, float]:
        """The next score."""
        return dict(mAP=next(self.scores), n=size)


def runner(work_dir: Path, hooks: list, scores: list[float] | None = None, epochs: int = 1, **more) -> Runner:
    """Three steps an epoch."""
    loader = DataLoader([torch.ones(1)] * 3, 1, collate_fn=lambda rows: dict(inputs=rows))
    made = Runner(
        Line(), str(work_dir), train_dataloader=loader, train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=more.pop('optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.1))), custom_hooks=hooks,
        default_hooks=more.pop('default_hooks', dict(checkpoint=None)),
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}', cfg=more.pop('cfg', None), **more)
    if scores:
        from mmengine.runner import ValLoop
        made._val_loop = ValLoop.__new__(ValLoop)
        made._val_loop.__dict__.update(_runner=made, dataloader=loader, evaluator=Scores(scores), fp16=False,
                                       val_loss={})
    return made


def test_manifest_says_what_a_run_was(tmp_path: Path) -> None:
    cfg = Config(dict(answer=42, work_dir='a'))
    run = runner(tmp_path / 'run', [ManifestHook()], randomness=dict(seed=7), cfg=cfg,
                 auto_scale_lr=dict(enable=True, base_batch_size=2),
                 optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=4))
    run.train()
    found = json.loads((Path(run.log_dir) / 'manifest.json').read_text())
    assert found['status'] == 'finished' and found['last_step'] == 3 and found['end'] >= found['start']
    assert found['seed'] == 7 and found['config'] == dict(answer=42, work_dir='a')
    assert found['batch'] == dict(per_process=1, processes=1, accumulated=4, effective=4, base_batch_size=2,
                                  lr_scaled=True)
    assert found['lr'] == [0.05]  # 0.1 for 2 images, scaled to 1
    assert found['versions']['torch'] == torch.__version__ and found['hardware']['cpus'] >= 1
    assert found['data']['train'][0]['samples'] == 3


def test_the_config_hash_ignores_where_a_run_is_and_sees_what_it_is(tmp_path: Path) -> None:
    digests = []
    for index, content in enumerate((dict(x=1, work_dir='a'), dict(x=1, work_dir='b'), dict(x=2, work_dir='a'))):
        hook = ManifestHook()
        run = runner(tmp_path / str(index), [hook], cfg=Config(content))
        run.train()
        digests.append(hook.content['config_sha256'])
    assert digests[0] == digests[1] != digests[2]


def test_data_sets_are_counted_and_hashed(tmp_path: Path, segmentation_set: Path, detection_set: Path) -> None:
    infos = [dict(seg_map_path=str(path)) for path in sorted((segmentation_set / 'labels').iterdir())]

    class Labels:
        data_root = 'x'

        def __len__(self) -> int:
            return len(infos)

        def get_data_info(self, index: int) -> dict:
            return infos[index]

    hook = ManifestHook()
    first = hook._describe(Labels())
    assert first['samples'] == first['label_files'] == 8 and len(first['names_and_sizes_sha256']) == 64
    infos.pop()
    assert hook._describe(Labels())['names_and_sizes_sha256'] != first['names_and_sizes_sha256']
    assert 'label_files' not in ManifestHook(max_files=3)._describe(Labels())
    boxes = SimpleNamespace(__len__=lambda: 8, ann_file=str(detection_set / 'train.json'))
    described = hook._describe(type('Boxes', (), dict(__len__=lambda self: 8, ann_file=boxes.ann_file))())
    expected = subprocess.run(['sha256sum', boxes.ann_file], capture_output=True, text=True).stdout.split()[0]
    assert described['sha256'] == sha256(detection_set / 'train.json') == expected
    nested = SimpleNamespace(datasets=[SimpleNamespace(dataset='leaf'), 'other'])
    nested.datasets[0].dataset = leaf = Labels()
    assert list(leaves(nested)) == [leaf, 'other']


def test_git_state_sees_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    run = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b']
    (tmp_path / 'file').write_text('1')
    for command in (['init', '-q'], ['add', 'file'], ['commit', '-qm', 'first']):
        subprocess.run([*run, *command], check=True)
    state = git_state(tmp_path)
    assert len(state['commit']) == 40 and state['dirty'] is False
    (tmp_path / 'file').write_text('2')
    assert git_state(tmp_path)['dirty'] is True


def test_plain_turns_classes_into_names() -> None:
    assert plain(dict(type=nn.Linear, f=plain, x=(1, None, 2.5))) == dict(
        type='torch.nn.modules.linear.Linear', f='mmpapers.hooks.manifest.plain', x=[1, None, 2.5])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_in_a_pipe_is_sparse_and_complete(tmp_path: Path) -> None:
    stream = io.StringIO()
    runner(tmp_path / 'run', [ProgressHook(stream=stream)], scores=[0.25, 0.5], epochs=2).train()
    lines = stream.getvalue().splitlines()
    assert lines[0] == 'Line: 2 parameters; 3 training and 3 validation samples; 6 steps on cpu'
    assert [line.split('  ')[:2] for line in lines if line.startswith('epoch')] == [
        ['epoch 1/2', '1/3'], ['epoch 1/2', '3/3'], ['epoch 2/2', '3/3']]
    assert '  validation after epoch 2: mAP 0.5  n 3' in lines
    assert all(part in lines[1] for part in ('loss ', 'lr 1.00e-01', '% waiting for data', 'left 0:00:0'))
    assert '\r' not in stream.getvalue() and '\x1b' not in stream.getvalue()


def test_progress_in_a_terminal_updates_one_line(tmp_path: Path) -> None:
    stream = Terminal()
    hook = ProgressHook(stream=stream)
    hook._due = lambda now: True
    runner(tmp_path / 'run', [hook], epochs=1).train()
    text = stream.getvalue()
    assert text.count('\r\x1b[K') >= 3 and text.count('\n') == 2  # the summary, and the last step
    assert 'step 3/3' in text.splitlines()[-1]


def test_the_loss_comes_first_and_single_classes_last(tmp_path: Path) -> None:
    stream = io.StringIO()
    dataset = SimpleNamespace(metainfo=dict(classes=('cat', 'm')))
    run = SimpleNamespace(val_dataloader=SimpleNamespace(dataset=dataset), max_epochs=2, epoch=1)
    ProgressHook(stream=stream, max_metrics=3).after_val_epoch(run, {
        'coco/cat_precision': .5, 'coco/mAP': .25, 'coco/mAP_l': -1, 'loss_cls': 1., 'loss': 2.})
    assert stream.getvalue() == '  validation after epoch 1: loss 2  coco/mAP 0.25  coco/cat_precision 0.5\n'


def test_time_left_counts_validations_to_come() -> None:
    hook = ProgressHook(stream=io.StringIO())
    run = SimpleNamespace(max_iters=100, max_epochs=10, epoch=3, val_interval=2, val_loop=object())
    assert hook._left(run, 40, 1.) == '0:01:00'
    hook._val_seconds = [30.]
    assert hook._left(run, 40, 1.) == '0:03:00'  # 60 steps, validations after epochs 6 (or 5), 8, 10 and the last
    assert _clock(3661) == '1:01:01' and _count(12_345_678) == '12.3 M' and _count(1234) == '1.2 k'


def test_early_stop_stops_at_the_right_time_and_resumes_its_count(tmp_path: Path) -> None:
    hook = EarlyStopHook('mAP', patience=2)
    run = runner(tmp_path / 'run', [hook], scores=[.1, .3, .2, .3, .9, .9], epochs=6)
    run.train()
    assert run.epoch == 4 and hook.best_score == .3  # the tie of epoch 4 is no improvement
    saved: dict = {}
    hook.before_save_checkpoint(run, saved)
    other = EarlyStopHook('mAP', patience=2)
    other.after_load_checkpoint(SimpleNamespace(_resume=True), saved)
    assert (other.best_score, other.wait_count) == (hook.best_score, hook.wait_count)
    fresh = EarlyStopHook('mAP')
    fresh.after_load_checkpoint(SimpleNamespace(_resume=False), saved)
    assert fresh.wait_count == 0


def test_early_stop_refuses_a_metric_that_no_validation_yields(tmp_path: Path) -> None:
    with pytest.raises(UnknownMetricError, match="'mAPP' is not a metric of the validation; did you mean 'mAP'"):
        runner(tmp_path / 'run', [EarlyStopHook('mAPP')], scores=[.1], epochs=1).train()
    assert EarlyStopHook('val/loss').monitor == 'loss' and EarlyStopHook('loss').rule == 'less'


def test_autocast_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    run = runner(tmp_path / 'run', [], optim_wrapper=dict(type='mmpapers.AutocastOptimWrapper',
                                                          optimizer=dict(type='SGD', lr=0.1)))
    before = run.model.layer.weight.clone()
    run.train()
    assert run.model.dtypes == {torch.bfloat16} and isinstance(run.optim_wrapper, AutocastOptimWrapper)
    assert run.model.layer.weight.dtype == torch.float32 and not torch.equal(run.model.layer.weight, before)
    with pytest.raises(ValueError, match="dtype='float16'.*use AmpOptimWrapper"):
        AutocastOptimWrapper(dtype='float16', optimizer=torch.optim.SGD(run.model.parameters(), 0.1))
