"""Distillation through configs and tools: the short form, whole runs, bad overlays, applying and comparing methods."""

import copy
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpapers.cli import apply_distill, compare_methods
from mmpapers.distill.overlay import expand, plain
from mmpapers.distill.sources import model_config

pytestmark = pytest.mark.core


def _model(cfg: dict) -> nn.Module:
    init_default_scope(cfg['_scope_'])
    return MODELS.build(Config(dict(model=copy.deepcopy(cfg))).model)


def test_the_short_form_expands_and_folds_back(tiny_pair: Callable, tmp_path: Path) -> None:
    student, teacher, _ = tiny_pair('dense')
    (tmp_path / 'teacher.py').write_text(Config(dict(model=teacher, default_scope='mmdet')).pretty_text)
    (tmp_path / 'student.py').write_text(Config(dict(
        model=student, default_scope='mmdet', distill=dict(
            type='mmpapers.FeatureMimic', teacher='./teacher.py', checkpoint='t.pth',
            guard=dict(metric='coco/bbox_mAP', minimum=.3)))).pretty_text)
    cfg = Config.fromfile(tmp_path / 'student.py')
    short = copy.deepcopy(cfg)
    assert expand(cfg)
    assert cfg.model.type == 'mmpapers.FeatureMimic'
    assert cfg.model.teacher.type == 'RetinaNet'
    assert cfg.custom_hooks[0].type == 'mmpapers.TeacherGuardHook'
    assert 'distill' not in cfg
    assert not expand(cfg)
    for form in (cfg, short):
        assert plain(form)
        assert form.model.type == 'RetinaNet'
        assert form.model.backbone.base_channels == 4
    assert not plain(short)


def test_train_resume_and_test_through_the_tools(kd: Path, capsys: pytest.CaptureFixture) -> None:
    from mmpapers.cli import test, train
    command = [str(kd / 'kd.py'), '--seed', '0', '--work-dir']
    assert train.main([*command, str(kd / 'straight')]) == 0
    assert train.main([*command, str(kd / 'halves'), '--cfg-options', 'train_cfg.max_epochs=1']) == 0
    assert train.main([*command, str(kd / 'halves'), '--resume']) == 0
    straight, halves = (torch.load(kd / name / 'epoch_2.pth', weights_only=False) for name in ('straight', 'halves'))
    assert all(torch.equal(value, halves['state_dict'][key]) for key, value in straight['state_dict'].items())
    helpers = [file['message_hub']['runtime_info']['distill_helpers'] for file in (straight, halves)]
    assert helpers[0]
    assert all(torch.equal(value, helpers[1][key]) for key, value in helpers[0].items())

    stock = _model(model_config(kd / 'student.py', 'student'))
    stock.load_state_dict(straight['state_dict'], strict=True)
    manifest = json.loads(next((kd / 'straight').glob('*/manifest.json')).read_text())
    assert manifest['teacher']['checkpoint'].endswith('teacher.pth')
    assert len(manifest['teacher']['sha256']) == 64
    capsys.readouterr()
    for name in ('kd.py', 'student.py'):
        assert test.main([str(kd / name), str(kd / 'straight' / 'epoch_2.pth')]) == 0
    assert 'without its teacher' in capsys.readouterr().out

    (kd / 'teacher.pth').unlink()
    assert train.main([*command, str(kd / 'halves'), '--resume', '--cfg-options', 'train_cfg.max_epochs=3']) == 2
    assert 'teacher.pth' in capsys.readouterr().err
    assert (kd / 'halves' / 'epoch_2.pth').is_file()


def test_two_processes_train_one_student(kd: Path) -> None:
    import os
    import socket
    import subprocess
    import sys
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    tools = Path(compare_methods.__file__).parents[2] / 'tools'
    done = subprocess.run(
        ['bash', str(tools / 'dist_train.sh'), str(kd / 'kd.py'), '2', '--work-dir', str(kd / 'two'), '--cfg-options',
         'train_cfg.max_epochs=1', 'train_dataloader.batch_size=1'], capture_output=True, text=True, timeout=240,
        env=dict(os.environ, PYTHON=sys.executable, PORT=str(port), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(kd / 'two' / 'epoch_1.pth', weights_only=False)
    stock = _model(model_config(kd / 'student.py', 'student'))
    stock.load_state_dict(saved['state_dict'], strict=True)
    assert saved['message_hub']['runtime_info']['distill_helpers']


def test_the_long_form_runs_in_a_stock_runner(kd: Path) -> None:
    from mmengine.runner import Runner
    cfg = Config.fromfile(kd / 'kd.py')
    expand(cfg)
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(kd / 'stock')
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.custom_hooks = [dict(type='EMAHook', momentum=.1)]
    runner = Runner.from_cfg(cfg)
    runner.train()
    saved = torch.load(kd / 'stock' / 'epoch_1.pth', weights_only=False)
    assert set(saved['state_dict']) == set(_model(model_config(kd / 'student.py', 'student')).state_dict())
    assert {key.removeprefix('module.') for key in saved['ema_state_dict']} == {*saved['state_dict'], 'steps'}


@pytest.mark.parametrize(('change', 'words'), [
    ("checkpoint='nowhere.pth'", 'nowhere.pth'), ("checkpoint=None", 'no weights'),
    ("teacher='nowhere.py'", 'nowhere.py'),
    ("tau=3", 'tau'), ("guard=dict(metric='coco/bbox_mAP', minimum=0.9)", 'below distill.guard.minimum'),
    ("guard=dict(metric='coco/AP', minimum=0.9, batches=1)", 'is not measured'),
    ("type='mmpapers.FeatureMimik'", 'FeatureMimic')])
def test_bad_overlays_stop_before_the_first_step(kd: Path, capsys: pytest.CaptureFixture, change: str, words: str
                                                 ) -> None:
    from mmpapers.cli import train
    (kd / 'bad.py').write_text(f"_base_ = ['./kd.py']\ndistill = dict({change})")
    assert train.main([str(kd / 'bad.py'), '--work-dir', str(kd / 'bad')]) == 2
    assert words in capsys.readouterr().err
    assert not list((kd / 'bad').glob('*.pth'))


def test_the_guard_lets_a_good_teacher_pass(kd: Path) -> None:
    from mmpapers.cli import train
    (kd / 'good.py').write_text("_base_ = ['./kd.py']\n"
                                   "distill = dict(guard=dict(metric='coco/bbox_mAP', minimum=-1., batches=1))")
    assert train.main([str(kd / 'good.py'), '--work-dir', str(kd / 'good'), '--cfg-options',
                       'train_cfg.max_epochs=1']) == 0
    manifest = json.loads(next((kd / 'good').glob('*/manifest.json')).read_text())
    assert 'coco/bbox_mAP' in manifest['teacher']['metrics']


def test_apply_distill_writes_an_overlay_that_trains(kd: Path, capsys: pytest.CaptureFixture) -> None:
    from mmpapers.cli import train
    command = [str(kd / 'student.py'), '--teacher', str(kd / 'teacher.py'), '--checkpoint',
               str(kd / 'teacher.pth'), '--method']
    assert apply_distill.main([*command, 'cwd']) == 0
    out = capsys.readouterr().out
    for words in ('family dense', 'neck  <-  neck', 'Conv2d(8, 16', 'weight   cwd 10', 'student_cwd.py'):
        assert words in out, out
    assert apply_distill.main([*command, 'cwd']) == 2
    assert 'exists' in capsys.readouterr().err
    assert apply_distill.main([*command, 'wcd']) == 2
    assert 'FeatureMimic' in capsys.readouterr().err
    assert apply_distill.main([str(kd / 'student.py'), '--teacher', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
                               '--method', 'pkd']) == 2
    assert 'no --checkpoint was given' in capsys.readouterr().err
    assert train.main([str(kd / 'student_cwd.py'), '--work-dir', str(kd / 'cwd'), '--cfg-options',
                       'train_cfg.max_epochs=1']) == 0


def test_inspect_shows_both_models(kd: Path, capsys: pytest.CaptureFixture) -> None:
    from mmpapers.cli import inspect_model
    assert inspect_model.main([str(kd / 'student.py'), '--teacher', str(kd / 'teacher.py'), '--grep', '^neck FPN',
                               '--shape', '64']) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert '(1, 8, 8, 8)' in line
    assert '(1, 16, 8, 8)' in line


def _finished(folder: Path, value: float, seconds: float) -> None:
    (folder / 'test' / 't').mkdir(parents=True)
    (folder / 'test' / 't' / 'metrics.json').write_text(json.dumps({'coco/RBC': 0., 'coco/bbox_mAP': value}))
    (folder / 'run').mkdir()
    (folder / 'run' / 'train.csv').write_text(f'mode,iter,seconds\ntrain,1,1\ntrain,2,{seconds}\n')


def test_compare_methods_tabulates_what_is_there(kd: Path, capsys: pytest.CaptureFixture) -> None:
    root = kd / 'compare'
    for name, values in (('student', (.2, .3)), ('kd', (.3, .36))):
        for seed, value in enumerate(values):
            _finished(root / name / f'seed_{seed}', value, 40 + seed)
    command = [str(kd / 'student.py'), str(kd / 'kd.py'), '--seeds', '0', '1', '--work-dir', str(root)]
    assert compare_methods.main(command) == 0  # nothing is left to run
    table = (root / 'table.md').read_text()
    assert '| student | 0.250 ± 0.071 |  | 2 | 40 |' in table
    assert '| kd | 0.330 ± 0.042 | +0.080 ± 0.028 | 2 | 40 |' in table
    assert '2 epochs of batches of 2' in table
    assert (root / 'plot.png').stat().st_size > 5000
    assert (root / 'runs.csv').read_text().count('\n') == 5
    assert compare_methods.main([*command, '--metric', 'mIoU', '--table-only']) == 2
    assert 'coco/bbox_mAP' in capsys.readouterr().err


def test_compare_methods_runs_and_names_a_failure(kd: Path, capsys: pytest.CaptureFixture) -> None:
    (kd / 'broken.py').write_text("_base_ = ['./kd.py']\ndistill = dict(checkpoint='gone.pth')")
    root = kd / 'compare'
    assert compare_methods.main([str(kd / 'student.py'), str(kd / 'broken.py'), '--seeds', '3', '--jobs', '2',
                                 '--threads', '1', '--work-dir', str(root), '--cfg-options', 'train_cfg.max_epochs=1'
                                 ]) == 1
    out = capsys.readouterr().out
    assert 'broken, seed 3: train failed' in out
    assert '| student |' in out
    assert (root / 'student' / 'seed_3' / 'epoch_1.pth').is_file()


def test_compare_methods_wants_equal_budgets(kd: Path, capsys: pytest.CaptureFixture) -> None:
    (kd / 'longer.py').write_text("_base_ = ['./kd.py']\ntrain_cfg = dict(max_epochs=9)")
    assert compare_methods.main([str(kd / 'student.py'), str(kd / 'longer.py')]) == 2
    error = capsys.readouterr().err
    assert '9 epochs of batches of 2' in error
    assert '--unequal' in error


def _blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page of the documentation."""
    text = (Path(compare_methods.__file__).parents[2] / 'docs' / page).read_text('utf-8')
    return [part.split('```')[0].strip() for part in text.split(f'```{language}\n')[1:]]


def test_the_five_minute_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpapers.cli import test, train
    from mmpapers.datasets.toytown.__main__ import main as toytown
    repository = Path(compare_methods.__file__).parents[2]
    for name in ('projects', 'configs'):
        (tmp_path / name).symlink_to(repository / name)
    monkeypatch.chdir(tmp_path)
    assert toytown(['data/toytown', '--train', '4', '--val', '2', '--workers', '1']) == 0
    teacher = Config.fromfile('projects/ttfnet/configs/ttfnet_r18_toytown.py')
    Path('work_dirs/quickstart').mkdir(parents=True)
    torch.save(_model(dict(teacher.model, _scope_='mmdet')).state_dict(), 'work_dirs/quickstart/epoch_16.pth')
    student = next(block for block in _blocks('distillation.md', 'python') if block.startswith('# my_student.py'))
    Path('my_student.py').write_text(student)
    tools = dict(apply_distill=apply_distill, train=train, test=test)
    fewer = ['--cfg-options', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
             'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']
    for line in _blocks('distillation.md', 'bash')[0].splitlines():
        program, tool, *words = shlex.split(line)
        assert program == 'python'
        tool = Path(tool).stem
        assert tools[tool].main(words + (fewer if tool == 'train' else [])) == 0, line


def test_the_distiller_of_the_documentation_works(tiny_pair: Callable) -> None:
    from mmengine.logging import MessageHub
    code = _blocks('write_a_distiller.md', 'python')[0]
    namespace: dict = {'__name__': 'my_distiller'}
    exec(compile(code, 'my_distiller.py', 'exec'), namespace)
    MessageHub.get_instance('documentation')
    student, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    model = MODELS.build(dict(type='mmpapers.CosineMimic', student=student, teacher=teacher, checkpoint='random'))
    losses = model.loss(**model.data_preprocessor(batch(), True))
    assert 0 < losses['cosine_raw'] < 2
    assert losses['loss_cosine'] == 2 * losses['cosine_raw']
