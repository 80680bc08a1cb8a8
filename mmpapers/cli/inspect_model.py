"""``tools/inspect_model.py``: module paths, classes, output shapes of one dry run, and parameters of a model."""

import argparse
import contextlib
import copy
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpapers import compat
from mmpapers.config_tree import walk
from mmpapers.dry_run import Row, fake_batch, recorded

from . import console, runtime
from .check import add_config_arguments


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in eval mode; no weights are loaded or downloaded, values are torch's defaults.

    Raises:
        UserError: If the config has no model.
    """
    if not cfg.get('model'):
        raise runtime.UserError('the config has no `model`; give one that can be trained, not a base file')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return MODELS.build(copy.deepcopy(cfg.model)).eval()


def input_shape(cfg: Config, fallback: tuple[int, int] = (512, 512)) -> tuple[int, int]:
    """Return (height, width) that the config tests on: the first fixed Resize of the test pipeline."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        for _, step in walk((cfg.get(loader) or {}).get('dataset')):
            scale = step.get('scale') if isinstance(step, dict) and 'Resize' in str(step.get('type')) else None
            if isinstance(scale, (list, tuple)) and len(scale) == 2 and all(isinstance(s, int) for s in scale):
                return tuple(scale[::-1])
    return fallback


def forward(model: nn.Module, batch: dict, before: Callable[[], Any] = lambda: None) -> str:
    """Run a model without gradients on a batch.

    Args:
        model: The model.
        batch: What :func:`fake_batch` made.
        before: Called before each attempt.

    Returns:
        The mode that was used: ``'tensor'`` (the network alone), or ``'predict'`` where a model has no such path.

    Raises:
        UserError: If it runs in neither mode.
    """
    data = model.data_preprocessor(batch, False)
    data = dict(data) if isinstance(data, dict) else dict(inputs=data[0], data_samples=data[1])
    problem: Exception | None = None
    for mode in ('tensor', 'predict'):
        before()
        try:
            with torch.no_grad():
                model(**copy.deepcopy(data), mode=mode)
            return mode
        except NotImplementedError as error:
            problem = error  # an op that is missing here, or no such mode
        except Exception as error:  # noqa: BLE001 - any failure of a foreign model is answered by the other mode
            problem = problem or error
    raise runtime.UserError(f'{type(model).__name__} cannot run on random input: {type(problem).__name__}: {problem}',
                            code=1) from problem


def inspect(cfg: Config, shape: tuple[int, int] | None = None) -> tuple[list[Row], str]:
    """Build a model and run it once on random input.

    Args:
        cfg: The config.
        shape: Image (height, width); by default what the config tests on.

    Returns:
        One row a module, and the forward mode.
    """
    model = build_model(cfg)
    with recorded(model) as rows:
        mode = forward(model, fake_batch(cfg, model, shape or input_shape(cfg)),
                       before=lambda: [row.outputs.clear() for row in rows])
    return rows, mode


def table(*models: Sequence[Row], grep: str = '', depth: int | None = None, titles: Sequence[str] = ()) -> str:
    """Write the modules of one model, or of several side by side, as text.

    Args:
        models: Rows of each model; rows with the same path share a line.
        grep: Regular expression that path or class must contain.
        depth: How many parts a path may have at most.
        titles: A heading for each model, needed for more than one.
    """
    by_path: dict[str, list[Row | None]] = {}
    for i, rows in enumerate(models):
        for row in rows:
            if (not grep or re.search(grep, f'{row.path} {row.kind}')) \
                    and (depth is None or row.path.count('.') < depth):
                by_path.setdefault(row.path, [None] * len(models))[i] = row
    lines = [['module', *(text for title in titles or [''] for text in (f'{title} class'.strip(), 'params', 'output'))]]
    for path, cells in by_path.items():
        line = [path or '(model)']
        for row in cells:
            line += ['', '', ''] if row is None else [row.kind, f'{row.params:,}', _calls(row)]
        lines.append(line)
    widths = [min(max(map(len, column)), 90) for column in zip(*lines)]
    right = {i for i, name in enumerate(lines[0]) if name == 'params'}
    return '\n'.join('  '.join(text.rjust(width) if i in right else text.ljust(width)
                               for i, (text, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def _calls(row: Row) -> str:
    """Outputs of a module; a head that is called once per level shows each distinct shape."""
    distinct = list(dict.fromkeys(row.outputs))
    if not distinct:
        return 'not called'
    text = ' | '.join(distinct[:4]) + (f' | ... ({len(distinct)})' if len(distinct) > 4 else '')
    return text if len(row.outputs) == 1 else f'{len(row.outputs)} calls: {text}'


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``."""
    parser.add_argument('--shape', nargs='+', type=int, metavar=('H', 'W'),
                        help='image height and width (default: what the config tests on)')


def parse_shape(args: argparse.Namespace, cfg: Config) -> tuple[int, int]:
    """Return (height, width) from ``--shape``, where one number means a square."""
    if not args.shape:
        return input_shape(cfg)
    if len(args.shape) > 2 or min(args.shape) < 1:
        raise runtime.UserError('--shape takes a height and a width in pixels')
    return args.shape[0], args.shape[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table.

    Returns:
        0; 1 if the model does not run; 2 if the config cannot be read.
    """
    parser = argparse.ArgumentParser('inspect_model', description=__doc__)
    add_config_arguments(parser)
    add_shape(parser)
    parser.add_argument('--grep', default='', metavar='PATTERN', help='only modules whose path or class matches')
    parser.add_argument('--depth', type=int, help='only paths of at most this many parts')
    parser.add_argument('--teacher', metavar='CONFIG', help='show a second model beside the first, on input of the '
                        'same size: the paths and shapes that a distillation can connect')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        shape = parse_shape(args, cfg)
        rows, mode = inspect(cfg, shape)
        models = [rows]
        if args.teacher:
            models.append(inspect(runtime.read_config(args.teacher), shape)[0])
    text = table(*models, grep=args.grep, depth=args.depth, titles=('student', 'teacher') if args.teacher else ())
    with contextlib.suppress(BrokenPipeError):
        print(f'{os.path.basename(args.config)}: one random image of {shape[0]} x {shape[1]} (H x W), forward mode '
              f'{mode!r}, {rows[0].params:,} parameters\n\n{text}', flush=True)
    if '\n' not in text:
        print(f'No module matches {args.grep!r}.')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
