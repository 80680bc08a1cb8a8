"""Evaluate a checkpoint of mmdet, mmseg, mmdet3d or mmpapers with the flags of mmdet's and mmseg's tools.

Metrics are printed as a table and written to <work dir>/<timestamp>/metrics.json. Exit codes: 0 done; 1 an error during
the run (a missing or broken checkpoint, too); 2 a wrong command line or config; 130 interrupted.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpapers.cli import console, runtime

TASKS_3D = ('mono_det', 'multi-view_det', 'lidar_det', 'lidar_seg', 'multi-modality_det')
TASKS_FROM_ABOVE = ('lidar_det', 'multi-modality_det')  # drawn by us: mmdet3d wants open3d and a display for points


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        The exit code (see the module's text).
    """
    parser = argparse.ArgumentParser(prog='mmpapers test', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or one of an installed toolbox: mmdet::retinanet/<name>.py')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    runtime.add_common_arguments(parser)
    parser.add_argument('--out', help='predictions: a .pkl file, or for segmentation a folder of label images')
    parser.add_argument('--show', action='store_true', help='open a window for each image')
    parser.add_argument('--show-dir',
                        help='draw every image into <work dir>/<timestamp>/SHOW_DIR (or an absolute path)')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--task', choices=TASKS_3D, default='lidar_det',
                        help='what --show and --show-dir draw with an mmdet3d config; for lidar_det and '
                        'multi-modality_det --show-dir draws from above (default %(default)s)')
    parser.add_argument('--score-thr', type=float, help='lowest score that is drawn')
    args = parser.parse_args(argv)
    return runtime.run(lambda: test(args))


def test(args: argparse.Namespace) -> int:
    """Read, build, run and report.

    Raises:
        UserError: For what is wrong before the run.
    """
    from mmpapers import compat
    from mmpapers.cli.train import require_file
    from mmpapers.distill.overlay import plain
    runtime.set_ranks(args.launcher, args.local_rank)
    with console.quiet_stack(args.verbose):
        compat.setup()
        cfg = runtime.read_config(args.config, args.cfg_options)
        if plain(cfg):
            runtime.say('the student is tested, without its teacher')
        runtime.set_work_dir(cfg, args.config, args.work_dir)
        needed = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')
        if absent := [key for key in needed if cfg.get(key) is None]:
            raise runtime.UserError(f'{args.config} sets no {", ".join(absent)}, so there is nothing to test on')
        require_file(args.checkpoint)
        cfg.load_from, cfg.resume = args.checkpoint, False
        if args.show or args.show_dir:
            set_pictures(cfg, args)
        if args.tta:
            set_tta(cfg)
        dumper = set_output(cfg, args.out)
        runtime.prepare_processes(cfg, args.launcher)
        if cfg.get('mmpapers_hooks', True) is not False:
            cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if runtime.type_name(hook) not in
                                (*runtime.DEFAULT_HOOKS, 'EarlyStopHook')] + [dict(type='mmpapers.ProgressHook')]
        with runtime.trust(args.trust_checkpoint):
            runner = console.build_runner(cfg, args.verbose, tables=True)
            if dumper is not None:
                runner.test_evaluator.metrics.append(dumper(out_file_path=args.out))
            metrics = runner.test()
        if runtime.is_main():
            file = Path(runner.log_dir) / 'metrics.json'
            scalars = {key: _number(value) for key, value in metrics.items()}
            file.write_text(json.dumps(scalars, indent=2), 'utf-8')
            print(table(scalars))
            print(f'\nmetrics   {file}')
            if args.show_dir:
                print(f'pictures  {Path(runner.log_dir) / args.show_dir}')
            if args.out:
                print(f'results   {args.out}')
    return 0


def set_pictures(cfg: Config, args: argparse.Namespace) -> None:
    """Turn drawing on.

    Raises:
        UserError: If the config has no visualization hook.
    """
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('visualization')
    if hook is None:
        raise runtime.UserError('--show and --show-dir need default_hooks.visualization in the config, e.g. '
                                "visualization=dict(type='DetVisualizationHook')")
    name = runtime.type_name(hook)
    if name == 'SegVisualizationHook':
        hooks['visualization'] = dict(type='mmpapers.SegmentationPicturesHook', folder=args.show_dir, show=args.show,
                                      wait_time=args.wait_time if args.show else 0.,
                                      backend_args=hook.get('backend_args'))
        return
    if name == 'Det3DVisualizationHook' and args.task in TASKS_FROM_ABOVE and not args.show:
        least = hook.get('score_thr', 0.3) if args.score_thr is None else args.score_thr
        hooks['visualization'] = dict(type='mmpapers.BEVPicturesHook', folder=args.show_dir, score_thr=least)
        return
    hook['draw'] = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        hook['test_out_dir'] = args.show_dir
    if args.score_thr is not None:
        hook['score_thr'] = args.score_thr
    if name == 'Det3DVisualizationHook':
        hook['vis_task'] = args.task


def set_tta(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation, by the config's word or by mmdet's default (flips).

    Raises:
        UserError: If the config says nothing and the toolbox has no default.
    """
    leaf = cfg.test_dataloader['dataset']
    while 'dataset' in leaf:
        leaf = leaf['dataset']
    detection = any(runtime.type_name(t) == 'PackDetInputs' for t in leaf.get('pipeline', []))
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        if not detection:
            raise runtime.UserError('--tta needs tta_model and tta_pipeline in the config')
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],
            [dict(type='PackDetInputs', meta_keys=keys)]])
        cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5),
                                                                          max_per_img=100)))
        cfg.setdefault('tta_pipeline', [*copy.deepcopy(list(leaf['pipeline'][:-1])), flips])
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    leaf['pipeline'] = cfg.tta_pipeline


def set_output(cfg: Config, out: str | None) -> type | None:
    """Prepare ``--out``: a pickle of the predictions, or a folder of mmseg's label images.

    Returns:
        Class of a metric that dumps predictions, for the evaluator; None for a folder or without ``--out``.

    Raises:
        UserError: If a folder is named and no evaluator writes one.
    """
    if out is None:
        return None
    if out.endswith(('.pkl', '.pickle')):
        if cfg.get('default_scope') == 'mmdet':
            from mmdet.evaluation import DumpDetResults
            return DumpDetResults
        from mmengine.evaluator import DumpResults
        return DumpResults
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list | tuple) else [cfg.test_evaluator]
    writers = [e for e in evaluators if runtime.type_name(e) in ('IoUMetric', 'CityscapesMetric')]
    if not writers:
        raise runtime.UserError(f'--out {out}: predictions of this config go to a .pkl file; only mmseg evaluators '
                                'write a folder')
    for writer in writers:
        writer['output_dir'] = out
        if runtime.type_name(writer) == 'CityscapesMetric':
            writer['keep_results'] = True
    return None


def table(metrics: dict[str, Any]) -> str:
    """Metrics as two aligned columns; lists and other values that are no numbers are left to metrics.json."""
    rows = [(key, f'{value:.4f}' if isinstance(value, float) else str(value)) for key, value in metrics.items()
            if isinstance(value, int | float)]
    if not rows:
        return 'no metrics: the evaluator only wrote results'
    left, right = max(len('metric'), *(len(k) for k, _ in rows)), max(len('value'), *(len(v) for _, v in rows))
    line = f'{"-" * left}  {"-" * right}'
    return '\n'.join(['', f'{"metric":{left}}  {"value":>{right}}', line,
                      *(f'{key:{left}}  {value:>{right}}' for key, value in rows)])


def _number(value: Any) -> Any:
    """A metric as something JSON can hold."""
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _number(v) for k, v in value.items()}
    return value if isinstance(value, int | float | str | list | None) else str(value)


if __name__ == '__main__':
    raise SystemExit(main())
