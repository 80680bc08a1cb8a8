"""Train a config of mmdet, mmseg, mmdet3d or mmpapers, text or lazy, with the flags of mmdet's tool.

Exit codes: 0 done; 1 an error during the run; 2 a wrong command line or config (nothing was built); 3 a loss or
gradient that is not finite (weights untouched); 130 interrupted.
"""

import argparse
import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpapers.cli import console, runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Train a config.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        The exit code (see the module's text).
    """
    parser = argparse.ArgumentParser(prog='mmpapers train', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or one of an installed toolbox: mmdet::retinanet/<name>.py')
    runtime.add_common_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint, or from the newest good one in the work dir if none is named')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: float16 with loss scaling on CUDA, bfloat16 autocast on CPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the LR by (batch per process x processes) / auto_scale_lr.base_batch_size')
    parser.add_argument('--seed', type=int,
                        help='seed of the run (default: randomness.seed of the config, else random)')
    parser.add_argument('--no-check', action='store_true', help='skip the check of config and data before the run')
    args = parser.parse_args(argv)
    return runtime.run(lambda: train(args))


def train(args: argparse.Namespace) -> int:
    """Read, check, build and run.

    Raises:
        UserError: For what is wrong before the run.
    """
    from mmpapers import compat
    from mmpapers.distill.overlay import expand
    runtime.set_ranks(args.launcher, args.local_rank)
    with console.quiet_stack(args.verbose):
        compat.setup()
        cfg = runtime.read_config(args.config, args.cfg_options)
        runtime.set_work_dir(cfg, args.config, args.work_dir)
        require_training(cfg, args.config)
        if not args.no_check and runtime.is_main():
            check(cfg)
        if expand(cfg):
            runtime.say(f'distillation: {runtime.type_name(cfg.model)}, teacher {cfg.model.get("checkpoint", "none")}')
        runtime.prepare_processes(cfg, args.launcher)
        if args.seed is not None:
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': args.seed}
        for line in (set_precision(cfg, args.amp), set_scaling(cfg, args.auto_scale_lr),
                     *set_resume(cfg, args.resume), f'work dir {cfg.work_dir}'):
            if line:
                runtime.say(line)
        runtime.inject_hooks(cfg)
        with runtime.trust(args.trust_checkpoint):
            runner = console.build_runner(cfg, args.verbose)
            try:
                runner.train()
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                _close_manifest(runner, 'interrupted' if interrupted else f'failed: {type(error).__name__}: {error}')
                if interrupted:
                    runtime.say(f'\ninterrupted after step {runner.iter} of {runner.max_iters}; go on with\n'
                        f'  {_resume_command(args, cfg)}')
                    return 130
                raise
        runtime.say(summary(runner))
    return 0


def require_training(cfg: Config, path: str) -> None:
    """Refuse a config that describes no training.

    Raises:
        UserError: Naming the absent keys.
    """
    absent = [key for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper') if cfg.get(key) is None]
    if absent:
        raise runtime.UserError(f'{path} sets no {", ".join(absent)}, so there is nothing to train; is it a base '
                                'config (configs/_base_/...) or one for testing only?')


def check(cfg: Config) -> None:
    """Run the checks of ``tools/check.py``; warnings are printed.

    Raises:
        UserError: If there are errors, with the whole report.
    """
    from mmpapers.cli.check import check_config, report
    findings = [finding for finding in check_config(cfg) if finding.level != 'info']
    if any(finding.level == 'error' for finding in findings):
        raise runtime.UserError(f'the check found errors, nothing was built (--no-check skips it)\n{report(findings)}')
    if findings:
        print(report(findings), flush=True)


def set_precision(cfg: Config, amp: bool) -> str:
    """Switch to mixed precision if asked for; a config's own float16 wrapper becomes bfloat16 autocast on CPU.

    Returns:
        What was done, in a line; '' if nothing.
    """
    import torch
    wrapper = cfg.optim_wrapper
    half = runtime.type_name(wrapper) == 'AmpOptimWrapper'
    if not amp and not half:
        return ''
    if torch.cuda.is_available():
        if not half:
            wrapper['type'] = 'AmpOptimWrapper'
            wrapper['loss_scale'] = 'dynamic'
        return f'mixed precision: {wrapper.get("dtype") or "float16"} on CUDA, loss scale {wrapper.get("loss_scale")}'
    wrapper['type'] = 'mmpapers.AutocastOptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    return 'mixed precision: bfloat16 autocast on CPU without loss scaling (float16 needs CUDA)'


def set_scaling(cfg: Config, scale: bool) -> str:
    """Turn LR scaling on if asked for, and say what happens to the LR.

    Returns:
        A line with the effective batch size and the LR.

    Raises:
        UserError: If scaling is asked for and the config states no base batch size.
    """
    states = cfg.get('auto_scale_lr') or {}
    base = states.get('base_batch_size')
    if scale:
        if not base:
            raise runtime.UserError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the '
                                    'batch size for which its LR was chosen')
        cfg.auto_scale_lr.enable = True
    loader, wrapper = cfg.train_dataloader, cfg.optim_wrapper
    per_process = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1
    processes, accumulated = runtime.world_size(), wrapper.get('accumulative_counts', 1)
    real, lr = per_process * processes, (wrapper.get('optimizer') or {}).get('lr')
    parts = [f'{per_process} per process x {processes}'] if processes > 1 else []
    parts += [f'{accumulated} steps accumulated'] if accumulated > 1 else []
    batch = f'batch size {real * accumulated}' + (f' ({", ".join(parts)})' if parts else '')
    rate = f'LR {lr:g}' if isinstance(lr, int | float) else 'LR'
    if not base:
        return f'{batch}; {rate} as the config says (it states no auto_scale_lr.base_batch_size)'
    if states.get('enable') or scale:
        scaled = f'{lr * real / base:g}' if isinstance(lr, int | float) else f'{real / base:g} x'
        return f'{batch}; {rate} of base batch size {base} scaled to {scaled}'
    if real * accumulated == base:
        return f'{batch}, the one {rate} was chosen for'
    return (f'{batch}, but {rate} was chosen for {base}; it is NOT scaled (--auto-scale-lr would multiply it by '
            f'{real / base:g})')


def set_resume(cfg: Config, resume: str | None) -> list[str]:
    """Find what to resume from or to start with.

    Args:
        cfg: Changed in place (``resume``, ``load_from``).
        resume: 'auto', a checkpoint, or None for what the config says.

    Returns:
        Lines that say what was found.

    Raises:
        UserError: If a named checkpoint does not exist.
    """
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
    elif resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    if cfg.get('resume') and not cfg.get('load_from'):
        from mmpapers.hooks.checkpoint import find_latest
        path, notes = find_latest(cfg.work_dir)
        cfg.resume, cfg.load_from = path is not None, path and str(path)
        return [*notes, f'resuming from {path}' if path else f'nothing to resume in {cfg.work_dir}: a fresh start']
    if cfg.get('load_from'):
        require_file(cfg.load_from)
        return [f'{"resuming" if cfg.get("resume") else "starting with the weights"} from {cfg.load_from}']
    return []


def require_file(checkpoint: str) -> None:
    """Refuse a local checkpoint that does not exist, before anything is built.

    Raises:
        UserError: With the nearest files.
    """
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise runtime.UserError(f'checkpoint {checkpoint!r} does not exist{runtime.nearest(checkpoint)}')


def summary(runner: Any) -> str:
    """Where everything lies, in a few lines."""
    hub = runner.message_hub
    lines = [f'trained {runner.iter} steps'
             + (f' of {runner.max_iters} (stopped early)' if runner.iter < runner.max_iters else '')]
    for title, key in (('last checkpoint', 'last_ckpt'), ('best checkpoint', 'best_ckpt')):
        if hub.runtime_info.get(key):
            lines.append(f'{title}  {_short(hub.get_info(key))}')
    folder = Path(runner.log_dir)
    lines += [f'{title:15}  {_short(folder / name)}' for title, name in (
        ('log', f'{runner.timestamp}.log'), ('table', 'train.csv'), ('curves', 'curves.png'),
        ('manifest', 'manifest.json')) if (folder / name).is_file()]
    return '\n'.join(lines)


def _short(path: str | Path) -> str:
    """A path relative to the current folder if it lies below."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _resume_command(args: argparse.Namespace, cfg: Config) -> str:
    """The command that goes on with a run."""
    words = ['mmpapers', 'train', args.config, '--work-dir', cfg.work_dir, '--resume']
    words += [flag for flag, on in (('--amp', args.amp), ('--auto-scale-lr', args.auto_scale_lr)) if on]
    if args.cfg_options:
        words += ['--cfg-options', *(f'{key}={value}' for key, value in args.cfg_options.items())]
    return shlex.join(words)


def _close_manifest(runner: Any, status: str) -> None:
    """Note in the manifest how a run ended, if the disk still takes it."""
    with contextlib.suppress(OSError):
        for hook in runner.hooks:
            if type(hook).__name__ == 'ManifestHook':
                hook.close(runner, status)


if __name__ == '__main__':
    raise SystemExit(main())
