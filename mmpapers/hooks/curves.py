"""Curves of losses, learning rate and metrics, drawn from the JSON lines that ``RecordHook`` writes."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpapers.hooks.record import LOG
from mmpapers.registry import HOOKS

_NO_CURVE = ('mode', 'iter', 'epoch', 'seconds', 'time', 'data_time', 'memory_mb', 'memory', 'base_lr', 'momentum')
_MAX_LINES = 8


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draw ``curves.png`` in the run's log folder after validations and at the end.

    Args:
        seconds: At least so long between two drawings (one takes about a second).
    """

    priority = 'LOWEST'

    def __init__(self, seconds: float = 60.) -> None:
        self.seconds = seconds
        self._next = 0.

    def after_val(self, runner: Runner) -> None:
        """Draw, if the last drawing is old enough."""
        if time.monotonic() >= self._next:
            self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        """Read the log and draw it."""
        log = Path(runner.log_dir) / LOG
        if is_main_process() and log.is_file():
            name = f'{Path(runner.work_dir).name} ({type(getattr(runner.model, "module", runner.model)).__name__})'
            draw([read_run(log, name)], Path(runner.log_dir) / 'curves.png')
            self._next = time.monotonic() + self.seconds


@dataclass
class Run:
    """Rows of a run.

    Attributes:
        name: How it is called in the legend.
        train: Series by name, each a list of (step, value).
        val: The same of the validations.
    """

    name: str
    train: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    val: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def find_logs(path: Path) -> list[Path]:
    """Logs of one run, oldest first.

    Args:
        path: A ``log.jsonl``, a log folder, or a work dir; of a work dir the last run that began at step 0, and what
            was resumed after it.

    Raises:
        FileNotFoundError: If there is no log.
    """
    if path.is_file():
        return [path]
    if (path / LOG).is_file():
        return [path / LOG]
    logs = sorted(path.glob(f'*/{LOG}'))
    if not logs:
        raise FileNotFoundError(f'{path} holds no {LOG}; give a work dir, a log folder or a {LOG} of a run of '
                                'tools/train.py')
    fresh = [i for i, log in enumerate(logs) if _first_step(log) == 0]
    return logs[fresh[-1] if fresh else 0:]


def read_run(logs: Path | Sequence[Path], name: str) -> Run:
    """Read logs; of a resumed run, what was done twice counts the second time.

    Args:
        logs: One log, or those of a run and of its continuations, oldest first.
        name: For the legend.
    """
    rows: list[dict[str, Any]] = []
    for log in [logs] if isinstance(logs, Path) else logs:
        for line in log.read_text('utf-8').splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while writing it
            if row.get('mode') == 'start':
                rows = [r for r in rows if r['iter'] <= row['iter']]
            else:
                rows.append(row)
    run = Run(name)
    for row in rows:
        series = run.train if row['mode'] == 'train' else run.val
        for key, value in row.items():
            # COCO's metrics are -1 where there are no such objects.
            if key not in _NO_CURVE and isinstance(value, int | float) and not (row['mode'] == 'val' and value == -1):
                series.setdefault(key, []).append((row['iter'], value))
    return run


def panels(runs: Sequence[Run], keys: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Choose what is drawn together.

    Args:
        runs: The runs to be drawn.
        keys: Regular expressions; a series is drawn if one matches its name (``loss_cls``, ``val/coco/bbox_mAP``).

    Returns:
        Titles and the names of their series; names of validation series begin with ``val/``.
    """
    names = list(dict.fromkeys([*(key for run in runs for key in run.train),
                                *(f'val/{key}' for run in runs for key in run.val)]))
    if keys:
        names = [name for name in names if any(re.search(key, name) for key in keys)]
        return [(name, [name]) for name in names]
    losses = [name for name in names if 'loss' in name]
    total = [name for name in losses if name.removeprefix('val/') == 'loss']
    terms = [name for name in losses if name not in total and not name.startswith('val/')][:_MAX_LINES]
    terms = [name for term in terms for name in (term, f'val/{term}') if name in names]
    several_terms = len(runs) == 1 and len({name.removeprefix('val/') for name in terms}) > 1
    rates = [name for name in names if name == 'lr' or name.endswith('.lr')][:_MAX_LINES]
    metrics = [name for name in names if name.startswith('val/') and name not in losses]
    shared = [name for name in metrics if sum(name.removeprefix('val/') in run.val for run in runs) > 1]
    metrics = shared or metrics
    shown = [('loss', total), ('loss terms (dashed: validation)', terms if several_terms else []),
             ('learning rate', rates)]
    return [panel for panel in shown if panel[1]] + _metric_panels(metrics, len(runs))


def _metric_panels(names: list[str], runs: int) -> list[tuple[str, list[str]]]:
    """Metrics of one evaluator share a panel, or have one each when runs are compared."""
    if runs > 1:
        return [(name, [name]) for name in names[:6]]
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name.endswith('_precision')):  # mmdet's name for a single class
        title = name.rpartition('/')[0].removeprefix('val').lstrip('/') or 'metrics'
        groups.setdefault(title, []).append(name)
    return [(title, group[:_MAX_LINES]) for title, group in groups.items()]


def draw(runs: Sequence[Run], path: Path, keys: Sequence[str] = (), smooth: float = 0.) -> list[str]:
    """Draw runs into a picture; colours tell series apart, and with several runs the runs.

    Args:
        runs: The runs.
        path: Picture to write, by its suffix (png, pdf, svg).
        keys: Regular expressions choosing the series; by default losses, learning rate and metrics.
        smooth: Weight of the past in an exponential mean of training series, 0 to 1; the raw values stay as thin lines.

    Returns:
        Names of the series that were drawn; nothing is written if there are none.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    groups = panels(runs, keys)
    if not groups:
        return []
    columns = min(len(groups), 3 if len(groups) in (3, 5, 6) or len(groups) > 8 else 2)
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * lines), layout='constrained')
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (title, names) in zip(axes, groups):
        several = len(runs) > 1
        for index, run in enumerate(runs):
            for order, name in enumerate(names):
                validation = name.startswith('val/')
                series = (run.val if validation else run.train).get(name.removeprefix('val/'))
                if series:
                    twin = validation and name.removeprefix('val/') in names
                    order = names.index(name.removeprefix('val/')) if twin and 'terms' in title else order
                    colour = f'C{(index if several else order) % 10}'
                    style = dict(color=colour, marker='o' if validation else None, markersize=3.5,
                                 linestyle='--' if twin and (several or 'terms' in title) else '-')
                    label = _label(name, names) if not several else run.name + (
                        f', {_label(name, names)}' if len(names) > 1 else '')
                    label = f'_{label}' if twin and 'terms' in title else label  # matplotlib: not in the legend
                    steps, values = zip(*series)
                    if smooth and not validation:
                        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                        values = _smoothed(values, smooth)
                    axis.plot(steps, values, label=label, linewidth=1.4, **style)
        if 'loss' in title and _spread(axis) > 20:
            axis.set_yscale('log')
        axis.set_title(title, fontsize=10)
        axis.set_xlabel('step', fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        for side in ('top', 'right'):
            axis.spines[side].set_visible(False)
        if len(names) > 1 or several:
            axis.legend(fontsize=7.5, frameon=False)
    for axis in axes[len(groups):]:
        axis.set_visible(False)
    if len(runs) == 1:
        figure.suptitle(runs[0].name, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return [name for _, names in groups for name in names]


def _label(name: str, names: list[str]) -> str:
    """Name of a series within its panel."""
    if name == 'loss':
        return 'training'
    if name == 'val/loss':
        return 'validation'
    return name.rpartition('/')[2] if all(n.startswith('val/') for n in names) else name


def _smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, out = 0., []
    for step, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        out.append(mean / (1 - weight**step))
    return out


def _spread(axis: Any) -> float:
    """Ratio of the largest to the smallest value of an axis' lines; 1 if one is not positive."""
    values = [v for line in axis.lines for v in line.get_ydata()]
    return max(values) / min(values) if values and min(values) > 0 else 1.


def _first_step(log: Path) -> int:
    """Step at which the run of a log began."""
    with log.open(encoding='utf-8') as file:
        try:
            return json.loads(file.readline()).get('iter', 0)
        except json.JSONDecodeError:
            return 0
