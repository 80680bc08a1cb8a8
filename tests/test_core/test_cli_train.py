"""``tools/train.py``: what it prints, writes and returns, for good input and for bad."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmpapers.cli import console, runtime
from mmpapers.cli import train as cli
from mmpapers.cli.train import main

pytestmark = pytest.mark.core
ROOT = Path(__file__).resolve().parents[2]
SHORT = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']


def run_folder(work_dir: Path) -> Path:
    """The newest log folder of a run."""
    return max(path.parent for path in work_dir.glob('*/manifest.json'))


def test_a_detector_trains_and_everything_is_written(detection_config: Path, tmp_path: Path, capsys) -> None:
    work_dir = tmp_path / 'run'
    assert main([str(detection_config), '--work-dir', str(work_dir), '--cfg-options', *SHORT]) == 0
    out = capsys.readouterr().out
    assert 'batch size 4, but LR 0.01 was chosen for 16; it is NOT scaled' in out and 'multiply it by 0.25' in out
    assert 'epoch 1/1' not in out and 'step 2/2' in out and 'validation after step 2' in out and 'loss ' in out
    for noise in ('System environment', 'Hooks will be executed', 'loading annotations', 'WARNING', 'Exp name'):
        assert noise not in out
    folder = run_folder(work_dir)
    assert {'train.csv', 'val.csv', 'log.jsonl', 'curves.png', 'manifest.json'} <= {p.name for p in folder.iterdir()}
    log = next(folder.glob('*.log')).read_text()
    assert 'System environment' in log and 'Epoch(train)' in log and 'SafeCheckpointHook' in log
    checkpoint = torch.load(work_dir / 'epoch_1.pth', weights_only=True)
    assert 'bbox_head.conv_cls.weight' in checkpoint['state_dict']


def test_a_segmentor_trains_resumes_and_scales_nothing(segmentation_config: Path, tmp_path: Path, capsys) -> None:
    command = [str(segmentation_config), '--work-dir', str(tmp_path / 'run'), '--seed', '3']
    assert main([*command, '--resume', '--cfg-options', 'train_cfg.max_iters=2']) == 0
    out = capsys.readouterr().out
    assert 'a fresh start' in out and 'it states no auto_scale_lr.base_batch_size' in out
    assert main([*command, '--resume']) == 0
    out = capsys.readouterr().out
    assert 'resuming from' in out and 'iter_2.pth' in out and 'step 4/4' in out
    manifest = json.loads((run_folder(tmp_path / 'run') / 'manifest.json').read_text())
    assert manifest['first_step'] == 2 and manifest['seed'] == 3 and manifest['resumed_from'].endswith('iter_2.pth')


def test_amp_on_cpu_is_bfloat16_autocast(detection_config: Path, tmp_path: Path, capsys) -> None:
    options = [*SHORT, 'mmpapers_hooks=False', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    assert main([str(detection_config), '--work-dir', str(tmp_path / 'run'), '--amp', '--no-check', '--auto-scale-lr',
                 '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert 'bfloat16 autocast on CPU' in out
    assert 'LR 0.01 of base batch size 16 scaled to 0.0025' in out
    assert not list((tmp_path / 'run').glob('*/manifest.json')), 'mmpapers_hooks=False adds no hook'


@HOOKS.register_module()
class BreakHook(Hook):
    """Raise something in the second step."""

    error: BaseException = KeyboardInterrupt()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if runner.iter == 1:
            raise self.error


@HOOKS.register_module()
class PoisonHook(Hook):
    """Make the classification layer NaN after the first epoch's checkpoint."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner) -> None:
        runner.model.bbox_head.conv_cls.bias.data.fill_(float('nan'))


def break_with(error: BaseException, config: Path, work_dir: Path, monkeypatch) -> int:
    monkeypatch.setattr(BreakHook, 'error', error)
    config.write_text(config.read_text() + "custom_hooks = [dict(type='BreakHook')]\n")
    return main([str(config), '--work-dir', str(work_dir), '--no-check', '--cfg-options', 'train_cfg.max_epochs=1'])


def test_ctrl_c_says_how_to_go_on(detection_config: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert break_with(KeyboardInterrupt(), detection_config, tmp_path / 'run', monkeypatch) == 130
    out = capsys.readouterr().out
    assert 'interrupted after step 1 of 4' in out
    assert f'mmpapers train {detection_config} --work-dir {tmp_path}/run --resume --cfg-options' in out
    assert json.loads((run_folder(tmp_path / 'run') / 'manifest.json').read_text())['status'] == 'interrupted'


def test_an_unexpected_error_keeps_its_traceback(detection_config: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ZeroDivisionError):
        break_with(ZeroDivisionError('bug'), detection_config, tmp_path / 'run', monkeypatch)
    status = json.loads((run_folder(tmp_path / 'run') / 'manifest.json').read_text())['status']
    assert status == 'failed: ZeroDivisionError: bug'


def test_nan_stops_with_exit_code_3_and_keeps_the_good_checkpoint(detection_config: Path, tmp_path: Path, capsys
                                                                  ) -> None:
    detection_config.write_text(detection_config.read_text() + "custom_hooks = [dict(type='PoisonHook')]\n"
                                'val_cfg = val_dataloader = val_evaluator = None\n')
    assert main([str(detection_config), '--work-dir', str(tmp_path / 'run'), '--no-check']) == 3
    error = capsys.readouterr().err
    assert 'error: training stopped before step 5 (epoch 2)' in error and 'loss_cls = nan' in error
    assert 'images/000.png' in error.replace('\\', '/') and 'epoch_1.pth' in error
    weights = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=True)['state_dict']
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert not (tmp_path / 'run/epoch_2.pth').exists()


def test_early_stop_ends_well_and_keeps_the_best_checkpoint(detection_config: Path, tmp_path: Path, capsys) -> None:
    detection_config.write_text(
        detection_config.read_text() + "custom_hooks = [dict(type='mmpapers.EarlyStopHook', monitor='val/loss', "
        "patience=1)]\noptim_wrapper['optimizer']['lr'] = 0.\n")
    assert main([str(detection_config), '--work-dir', str(tmp_path / 'run'), '--cfg-options',
                 'train_cfg.max_epochs=5']) == 0
    out = capsys.readouterr().out
    assert 'early stop with loss = ' in out and 'trained 8 steps of 20 (stopped early)' in out
    assert 'best checkpoint' in out and (tmp_path / 'run/best_loss_epoch_1.pth').is_file()
    assert json.loads((run_folder(tmp_path / 'run') / 'manifest.json').read_text())['status'] == 'stopped early'


@pytest.mark.parametrize('text, place, message', [
    ('x = dict(a=1\n', 'line 1', 'SyntaxError'),
    ('x = 1\ny = nothing\n', 'line 2', "NameError: name 'nothing' is not defined"),
    ("_base_ = ['absent.py']\n", 'absent.py', 'does not exist'),
    ("x = 1\n\nmodel = dict(\n    lr=1 / 0)\n", 'line 4', 'ZeroDivisionError')])
def test_config_errors_name_file_and_line(tmp_path: Path, capsys, text: str, place: str, message: str) -> None:
    path = tmp_path / 'broken.py'
    path.write_text(text)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and place in error and message in error
    assert str(tmp_path) in error


def test_a_misspelt_path_gets_its_neighbours(detection_config: Path, capsys) -> None:
    assert main([str(detection_config.with_name('detektor.py'))]) == 2
    error = capsys.readouterr().err
    assert "detektor.py' does not exist; did you mean" in error and 'detector.py' in error.partition('did you mean')[2]


@pytest.mark.parametrize('option, message', [
    ('train_cfg.max_epoch=1', 'train_cfg has no key \'max_epoch\'; did you mean train_cfg.max_epochs?'),
    ('optim_wraper.optimizer.lr=1', "the config has no key 'optim_wraper'; did you mean optim_wrapper?"),
    ('vis_backends.5.type=x', 'vis_backends is a list of 1 entries'),
    ('data_root.x=1', 'it has no key \'x\''),
    ('mmpapers_hooks.ValLosHook=False', "mmpapers_hooks names 'ValLosHook'")])
def test_misspelt_options_are_refused(detection_config: Path, capsys, option: str, message: str) -> None:
    assert main([str(detection_config), '--no-check', '--cfg-options', option]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('option, message', [
    ('model={a:1,b:(2,3)}', 'cannot read the value'), ('model.depth', "'model.depth' is not KEY=VALUE")])
def test_options_that_cannot_be_read_are_a_usage_error(detection_config: Path, capsys, option: str, message: str
                                                       ) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(detection_config), '--cfg-options', option])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_new_keys_by_option_are_fine() -> None:
    cfg = Config(dict(model=dict(type='A', depth=1), hooks=[dict(a=1)]))
    options = {'model.frozen': 1, 'randomness.seed': 1, 'hooks.0.b': 2, 'model.neck.type': 'B',
               'find_unused_parameters': True}
    assert runtime.check_options(cfg, options) is None


@pytest.mark.parametrize('change, arguments, message', [
    ('auto_scale_lr = None\n', ['--auto-scale-lr'], 'needs auto_scale_lr=dict(base_batch_size=N)'),
    ('', ['--resume', 'epoch_9.pth'], "checkpoint 'epoch_9.pth' does not exist"),
    ('train_cfg = optim_wrapper = None\n', [], 'sets no train_cfg, optim_wrapper'),
    ('', ['--launcher', 'pytorch'], '--launcher pytorch needs RANK in the environment; start the run with')])
def test_wrong_command_lines_are_one_sentence(detection_config: Path, capsys, monkeypatch, change: str,
                                              arguments: list[str], message: str) -> None:
    monkeypatch.delenv('RANK', raising=False)
    detection_config.write_text(detection_config.read_text() + change)
    assert main([str(detection_config), '--no-check', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_a_truncated_checkpoint_is_one_sentence(detection_config: Path, tmp_path: Path, capsys) -> None:
    torch.save(dict(state_dict=dict(a=torch.zeros(5000))), tmp_path / 'half.pth')
    data = (tmp_path / 'half.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(data[:len(data) // 2])
    code = main([str(detection_config), '--no-check', '--work-dir', str(tmp_path / 'run'), '--resume',
                 str(tmp_path / 'half.pth')])
    assert code == 1
    assert 'half.pth is truncated or damaged' in capsys.readouterr().err


def test_the_check_stops_a_wrong_config_before_anything_is_built(detection_config: Path, tmp_path: Path, capsys
                                                                 ) -> None:
    detection_config.write_text(detection_config.read_text().replace('stacked_convs=1', 'stacked_conv=1'))
    assert main([str(detection_config), '--work-dir', str(tmp_path / 'run')]) == 2
    error = capsys.readouterr().err
    assert 'stacked_conv' in error and 'stacked_convs' in error and 'nothing was built' in error
    assert not (tmp_path / 'run').exists()


def test_hooks_are_added_once_and_can_be_left_out() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='mmpapers.RecordHook', interval=5)],
                      mmpapers_hooks=dict(ValLossHook=False, NaNGuardHook=dict(max_overflows=1)),
                      default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=7))))
    runtime.inject_hooks(cfg)
    runtime.inject_hooks(cfg)
    names = [runtime.type_name(hook) for hook in cfg.custom_hooks]
    assert sorted(names) == sorted(set(runtime.DEFAULT_HOOKS) - {'ValLossHook'})
    assert cfg.custom_hooks[0].interval == 5 and cfg.custom_hooks[1].max_overflows == 1
    assert cfg.default_hooks.checkpoint == dict(type='mmpapers.SafeCheckpointHook', interval=7)
    off = Config(dict(mmpapers_hooks=False))
    runtime.inject_hooks(off)
    assert 'custom_hooks' not in off
    stop = Config(dict(custom_hooks=[dict(type='mmpapers.EarlyStopHook', monitor='val/loss')]))
    runtime.inject_hooks(stop)
    assert stop.default_hooks.checkpoint.save_best == 'loss'


def test_lr_is_announced() -> None:
    base = dict(train_dataloader=dict(batch_size=8), optim_wrapper=dict(optimizer=dict(lr=0.02)))
    assert cli.set_scaling(Config(dict(base, auto_scale_lr=dict(base_batch_size=8))), False) == \
        'batch size 8, the one LR 0.02 was chosen for'
    cfg = Config(dict(base, auto_scale_lr=dict(base_batch_size=16)))
    assert cli.set_scaling(cfg, True).endswith('scaled to 0.01') and cfg.auto_scale_lr.enable is True
    many = Config(dict(base, optim_wrapper=dict(optimizer=dict(lr=0.02), accumulative_counts=2),
                       auto_scale_lr=dict(base_batch_size=16)))
    assert cli.set_scaling(many, False) == 'batch size 16 (2 steps accumulated), the one LR 0.02 was chosen for'


def test_errors_of_the_disk_are_one_sentence(monkeypatch, capsys) -> None:
    def full() -> int:
        raise OSError(28, 'No space left on device', 'work_dirs/epoch_1.pth')

    def unexpected() -> int:
        raise RuntimeError('a bug')
    assert runtime.run(full) == 1
    error = capsys.readouterr().err
    assert 'error: the disk is full (work_dirs/epoch_1.pth)' in error and 'Traceback' not in error
    monkeypatch.setenv('MMPAPERS_TRACEBACK', '1')
    assert runtime.run(full) == 1
    assert 'Traceback' in capsys.readouterr().err
    with pytest.raises(RuntimeError, match='a bug'):
        runtime.run(unexpected)


def test_stock_and_lazy_configs_are_read(tmp_path: Path) -> None:
    cfg = runtime.read_config('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
                              {'train_dataloader.batch_size': 3, 'randomness.seed': 1})
    assert cfg.model.type == 'FCOS' and cfg.train_dataloader.batch_size == 3
    lazy = tmp_path / 'lazy.py'
    lazy.write_text('from mmengine.config import read_base\nfrom mmdet.models import FCOS\n'
                    'from mmengine.hooks import CheckpointHook\nmodel = dict(type=FCOS)\n'
                    'default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=2))\n')
    cfg = runtime.read_config(str(lazy))
    runtime.inject_hooks(cfg)
    assert runtime.type_name(cfg.model) == 'FCOS'
    assert cfg.default_hooks.checkpoint == dict(type='mmpapers.SafeCheckpointHook', interval=2)


def test_ranks_are_read_from_every_launcher(monkeypatch) -> None:
    for launcher, environment, expected in (
            ('slurm', dict(SLURM_PROCID='3', SLURM_NTASKS='8', SLURM_LOCALID='1'), ('3', '8', '1')),
            ('mpi', dict(OMPI_COMM_WORLD_RANK='2', OMPI_COMM_WORLD_SIZE='4', OMPI_COMM_WORLD_LOCAL_RANK='0'),
             ('2', '4', '0')),
            ('pytorch', dict(RANK='1', WORLD_SIZE='2'), ('1', '2', '7'))):
        monkeypatch.setattr(os, 'environ', environment)
        runtime.set_ranks(launcher, 7)
        assert (environment['RANK'], environment['WORLD_SIZE'], environment['LOCAL_RANK']) == expected
        assert runtime.world_size() == int(expected[1]) and not runtime.is_main()


def test_first_slurm_node(monkeypatch) -> None:
    for names, first in (('node[03-05,9],other', 'node03'), ('a1,a2', 'a1'), ('gpu-7', 'gpu-7'), ('n[12]', 'n12')):
        monkeypatch.setenv('SLURM_NODELIST', names)
        assert runtime._first_slurm_node() == first


def test_pycocotools_prints_to_the_log_but_obeys_a_redirection() -> None:
    import contextlib
    import io
    with console.quiet_stack():
        from pycocotools import cocoeval
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            cocoeval.print('summary')
    assert caught.getvalue() == 'summary\n'


def test_the_tool_runs_from_another_folder(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, str(ROOT / 'tools/train.py'), 'absent.py'], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: config 'absent.py' does not exist")
