"""Train and test several configs with the same seeds, several runs at a time, and write a table and a plot.

Each run is one call of ``tools/train.py`` and one of ``tools/test.py`` in a folder of its own,
``<work-dir>/<config>/seed_<n>``. A run that is complete is not repeated, and one that was cut off is resumed: call the
same command again.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import console, runtime

_MAIN = ('coco/bbox_mAP', 'mIoU', 'mAP_0.25')  # the metric that is meant if nobody says which


@dataclass
class Run:
    """One config with one seed.

    Args:
        config: Config file.
        name: Row of the table.
        seed: Seed.
        folder: Where it lies.
        metrics: What the test measured; empty until it is done.
        seconds: Training time, None until it is done.
        error: Why it failed.
    """

    config: str
    name: str
    seed: int
    folder: Path
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str = ''


def main(argv: Sequence[str] | None = None) -> int:
    """Compare configs.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 1 if a run failed (the others are in the table); 2 for a wrong command line or configs of unequal budget.
    """
    parser = argparse.ArgumentParser('compare_methods', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='configs to compare; the first is what the others are compared with')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--names', nargs='+', help='names of the rows (default: file names)')
    parser.add_argument('--work-dir', default='work_dirs/compare')
    parser.add_argument('--metric', help='metric of plot and table (default: COCO AP, mIoU, or the first of the test)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default 1)')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads of a run (default: cores / jobs)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings for all runs')
    parser.add_argument('--unequal', action='store_true', help='allow configs of different length or batch size')
    parser.add_argument('--table-only', action='store_true', help='run nothing, write what is there')
    args = parser.parse_args(argv)
    return runtime.run(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`.

    Raises:
        UserError: If names do not fit, a config does not exist, or budgets differ.
    """
    from mmpapers import compat
    names = args.names or [Path(config).stem for config in args.configs]
    if len(names) != len(args.configs) or len(set(names)) != len(names):
        raise runtime.UserError('--names must give every config a name of its own')
    compat.setup()
    with console.quiet_stack():
        budgets = {name: budget(runtime.read_config(config)) for name, config in zip(names, args.configs)}
    if len(set(map(str, budgets.values()))) > 1 and not args.unequal:
        lines = '\n'.join(f'  {name}: {text}' for name, text in budgets.items())
        raise runtime.UserError('the configs do not have the same budget, so their results cannot be compared:\n'
                                f'{lines}\nMake them equal, or say --unequal')
    root = Path(args.work_dir)
    runs = [Run(config, name, seed, root / name / f'seed_{seed}')
            for seed in args.seeds for name, config in zip(names, args.configs)]
    if not args.table_only:
        threads = args.threads or max((os.cpu_count() or 1) // args.jobs, 1)
        began = time.time()
        with ThreadPoolExecutor(args.jobs) as pool:
            for done, run in enumerate(pool.map(lambda run: execute(run, args.cfg_options, threads), runs), 1):
                metric = args.metric or main_metric(run.metrics)
                shown = run.error or f'{metric} {run.metrics.get(metric, float("nan")):g}'
                clock = f'{done}/{len(runs)}, {time.time() - began:.0f} s'
                print(f'[{clock}] {run.name}, seed {run.seed}: {shown}', flush=True)
    else:
        for run in runs:
            collect(run)
    if not any(run.metrics for run in runs):
        errors = '; '.join(run.error for run in runs if run.error)
        raise runtime.UserError(f'no run has results in {root}{": " + errors if errors else ""}', code=1)
    return write(runs, names, args.metric, root, next(iter(budgets.values())))


def main_metric(names: Sequence[str] | dict[str, float]) -> str:
    """The metric that sums up a test: COCO's AP, mIoU, or whatever comes first."""
    return next((name for name in _MAIN if name in names), next(iter(names), ''))


def budget(cfg: Any) -> str:
    """Length of training and batch size of a config, as text."""
    train, loader = cfg.get('train_cfg') or {}, cfg.get('train_dataloader') or {}
    length = f'{train.get("max_epochs")} epochs' if train.get('max_epochs') else f'{train.get("max_iters")} steps'
    return f'{length} of batches of {loader.get("batch_size")}'


def execute(run: Run, options: Sequence[str], threads: int) -> Run:
    """Train and test one run, as far as that is not done."""
    collect(run)
    if run.metrics:
        return run
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    extra = ['--cfg-options', *options] if options else []
    run.folder.mkdir(parents=True, exist_ok=True)
    train = ['mmpapers.cli.train', run.config, '--work-dir', str(run.folder), '--seed', str(run.seed), '--resume',
             *extra]
    for step, words in (('train', train), ('test', None)):
        if words is None:
            checkpoint = (run.folder / 'last_checkpoint').read_text().strip()
            words = ['mmpapers.cli.test', run.config, checkpoint, '--work-dir', str(run.folder / 'test'), *extra]
        with (run.folder / f'{step}.log').open('a') as log:
            code = subprocess.run([sys.executable, '-m', *words], env=environment, stdout=log, stderr=log,
                                  stdin=subprocess.DEVNULL, check=False).returncode
        if code:
            lines = (run.folder / f'{step}.log').read_text(errors='replace').split('\n')
            last = next((line for line in reversed(lines) if line.strip()), '')
            run.error = f'{step} failed (exit code {code}; {run.folder / step}.log): {last[:200]}'
            return run
    collect(run)
    return run


def collect(run: Run) -> None:
    """Read a run's metrics and training time from its folder."""
    found = sorted(run.folder.glob('test/*/metrics.json'))
    if found:
        run.metrics = {key: value for key, value in json.loads(found[-1].read_text()).items()
                       if isinstance(value, int | float)}
    run.seconds = None
    for file in sorted(run.folder.glob('*/train.csv')):
        rows = list(csv.DictReader(file.open(encoding='utf-8')))
        if rows:
            run.seconds = (run.seconds or 0) + float(rows[-1]['seconds'])


def write(runs: Sequence[Run], names: Sequence[str], metric: str | None, root: Path, length: str) -> int:
    """Write ``runs.csv``, ``table.md`` and ``plot.png`` and print the table.

    Raises:
        UserError: If no run has the metric.
    """
    measured = list(dict.fromkeys(key for run in runs for key in run.metrics))
    metric = metric or main_metric(measured)
    if metric not in measured:
        raise runtime.UserError(f'--metric {metric!r} was not measured; there are {", ".join(measured)}')
    with (root / 'runs.csv').open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, ['name', 'seed', 'seconds', *measured, 'error'])
        writer.writeheader()
        writer.writerows(dict(name=run.name, seed=run.seed, seconds=run.seconds, error=run.error, **run.metrics)
                         for run in runs)
    text = table(runs, names, metric, length)
    (root / 'table.md').write_text(text + '\n', 'utf-8')
    plot(runs, names, metric, root)
    print(f'\n{text}\n\ntable {root / "table.md"}, single runs {root / "runs.csv"}, plot {root / "plot.png"}')
    return int(any(run.error for run in runs))


def table(runs: Sequence[Run], names: Sequence[str], metric: str, length: str) -> str:
    """A markdown table: mean and standard deviation over seeds, and the difference to the first row seed by seed."""
    values = {name: {run.seed: run.metrics[metric] for run in runs if run.name == name and metric in run.metrics}
              for name in names}
    lines = [f'| method | {metric} | minus {names[0]} | seeds | training, s |', '| --- | ---: | ---: | ---: | ---: |']
    for name in names:
        own, base = values[name], values[names[0]]
        times = [run.seconds for run in runs if run.name == name and run.seconds]
        both = [own[seed] - base[seed] for seed in own if seed in base]
        gain = '' if name == names[0] else spread(both, sign=True)
        took = f'{statistics.median(times):.0f}' if times else ''
        lines.append(f'| {name} | {spread(list(own.values()))} | {gain} | {len(own)} | {took} |')
    return '\n'.join((*lines, '', f'Every run: {length}. Mean ± standard deviation over seeds; the difference is taken '
                      'seed by seed.'))


def spread(values: Sequence[float], sign: bool = False) -> str:
    """Mean ± standard deviation (of a sample) with a digit more than the deviation needs."""
    if not values:
        return ''
    digits = 3 if max(map(abs, values)) <= 1.5 else 2
    mean = f'{statistics.mean(values):{"+" if sign else ""}.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.{digits}f}'


def plot(runs: Sequence[Run], names: Sequence[str], metric: str, root: Path) -> None:
    """Draw every seed as a dot and the mean as a line."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(names), 3.6), layout='constrained')
    for x, name in enumerate(names):
        own = [run.metrics[metric] for run in runs if run.name == name and metric in run.metrics]
        if own:
            axes.scatter([x] * len(own), own, s=28, alpha=.7, color=f'C{x}', zorder=3)
            axes.hlines(statistics.mean(own), x - .3, x + .3, color=f'C{x}', linewidth=2.5)
            if x == 0:
                axes.axhline(statistics.mean(own), color='0.6', linewidth=1, linestyle='--', zorder=0)
    axes.set_xticks(range(len(names)), names, rotation=20, ha='right')
    axes.set_ylabel(metric)
    axes.set_title(f'{len({run.seed for run in runs})} seeds: dots; mean: line', fontsize=9)
    axes.grid(axis='y', alpha=.3)
    figure.savefig(root / 'plot.png', dpi=130)
    plt.close(figure)


if __name__ == '__main__':
    raise SystemExit(main())
