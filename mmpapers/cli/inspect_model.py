"""``tools/inspect_model.py``: module paths, classes, output shapes of one dry run, and parameters of a model."""

import argparse
import contextlib
import copy
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpapers import compat

from . import console, runtime
from .check import add_config_arguments
from .checks.finding import walk

_POINTS = 4096


@dataclass
class Row:
    """One module of a model.

    Args:
        path: Module path as taps and ``custom_keys`` want it, ``''`` for the model itself.
        kind: Class name.
        params: Number of parameters, those of its children included.
        outputs: Shapes of what each call returned; empty if the dry run did not call it.
    """

    path: str
    kind: str
    params: int
    outputs: list[str] = field(default_factory=list)


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in eval mode; no weights are loaded or downloaded, values are torch's defaults.

    Raises:
        UserError: If the config has no model.
    """
    if not cfg.get('model'):
        raise runtime.UserError('the config has no `model`; give one that can be trained, not a base file')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return MODELS.build(copy.deepcopy(cfg.model)).eval()


def family(model: nn.Module) -> str:
    """Return which kind of input a model takes: ``'det3d'``, ``'seg'`` or ``'det'``."""
    names = {cls.__name__ for cls in type(model).__mro__}
    if names & {'Base3DDetector', 'Base3DSegmentor'}:
        return 'det3d'
    return 'seg' if 'BaseSegmentor' in names else 'det'


def input_shape(cfg: Config, fallback: tuple[int, int] = (512, 512)) -> tuple[int, int]:
    """Return (height, width) that the config tests on: the first fixed Resize of the test pipeline."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        for _, step in walk((cfg.get(loader) or {}).get('dataset')):
            scale = step.get('scale') if isinstance(step, dict) and 'Resize' in str(step.get('type')) else None
            if isinstance(scale, (list, tuple)) and len(scale) == 2 and all(isinstance(s, int) for s in scale):
                return tuple(scale[::-1])
    return fallback


def fake_batch(cfg: Config, model: nn.Module, shape: tuple[int, int], size: int = 1) -> dict:
    """Make a random batch as a data loader would deliver it, labels included.

    Args:
        cfg: The config.
        model: Its model.
        shape: Image height and width in pixels; point clouds do not use it.
        size: Batch size.

    Returns:
        ``dict(inputs=..., data_samples=[...])`` for ``model.test_step`` and ``model.train_step``.
    """
    kind = family(model)
    if kind == 'det3d':
        return _points(cfg, size)
    classes = _count(cfg)
    if kind == 'seg':
        return _segmentation(shape, size, classes)
    from mmdet.testing._utils import demo_mm_inputs
    keys = {str(part) for key, _ in walk(cfg.model) for part in key}
    masks = bool(keys & {'mask_head', 'panoptic_head', 'mask_iou_head'}) or any('mask' in key for key in keys)
    return demo_mm_inputs(batch_size=size, image_shapes=[(3, *shape)] * size, num_items=[8] * size, num_classes=classes,
                          with_mask=masks, with_semantic=bool(keys & {'semantic_head', 'panoptic_head'}),
                          device='cpu')


def _count(cfg: Config) -> int:
    """The number of classes of the model's first head."""
    counts = [value for key, value in walk(cfg.model) if key and key[-1] in ('num_classes', 'num_things_classes')
              and isinstance(value, int) and 'rpn_head' not in key]
    return min(counts, default=2)


def _segmentation(shape: tuple[int, int], size: int, classes: int) -> dict:
    """Random images and label maps for mmseg."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    samples = []
    for _ in range(size):
        sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape, pad_shape=shape, padding_size=[0] * 4,
                                             flip=False, flip_direction=None, reduce_zero_label=False))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, max(classes, 1), (1, *shape)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for _ in range(size)],
                data_samples=samples)


def _points(cfg: Config, size: int) -> dict:
    """Random point clouds inside the model's range."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    spans = [value for key, value in walk(cfg.model) if key and key[-1] == 'point_cloud_range']
    low, high = np.array(spans[0] if spans else (0, -20, -2, 40, 20, 2), dtype=np.float32).reshape(2, 3)
    encoder = cfg.model.get('voxel_encoder') or cfg.model.get('backbone') or {}
    width = encoder.get('in_channels') or encoder.get('num_features') or 4
    clouds = [torch.from_numpy(np.random.default_rng(i).random((_POINTS, max(width, 3)), dtype=np.float32))
              for i in range(size)]
    for cloud in clouds:
        cloud[:, :3] = cloud[:, :3] * torch.from_numpy(high - low) + torch.from_numpy(low)
    samples = [Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, sample_idx=i)) for i in range(size)]
    return dict(inputs=dict(points=clouds), data_samples=samples)


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


def shapes(value: Any) -> str:
    """Write the shapes of a nested output, e.g. ``[(1, 64, 8, 8), (1, 64, 4, 4)]``."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    if isinstance(value, dict):
        return '{' + ', '.join(f'{name}: {shapes(item)}' for name, item in value.items()) + '}'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(shapes, value)) + ']'
    return '-' if value is None else type(value).__name__


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[list[Row]]:
    """Record output shapes of every module while the block runs; yields one row a module.

    ``forward`` itself is watched, because detectors call that of their heads, which forward hooks do not see.
    """
    rows = []
    for path, module in model.named_modules():
        row = Row(path, type(module).__name__, sum(p.numel() for p in module.parameters()))
        rows.append(row)
        module.forward = _watched(module.forward, row)
    try:
        yield rows
    finally:
        for module in model.modules():
            del module.forward


def _watched(function: Callable, row: Row) -> Callable:
    """Wrap a ``forward`` so that it notes the shapes of its output."""
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        row.outputs.append(shapes(output))
        return output
    return watched


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
    args = parser.parse_args(argv)
    return runtime.run(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        shape = parse_shape(args, cfg)
        rows, mode = inspect(cfg, shape)
    text = table(rows, grep=args.grep, depth=args.depth)
    with contextlib.suppress(BrokenPipeError):
        print(f'{os.path.basename(args.config)}: one random image of {shape[0]} x {shape[1]} (H x W), forward mode '
              f'{mode!r}, {rows[0].params:,} parameters\n\n{text}', flush=True)
    if '\n' not in text:
        print(f'No module matches {args.grep!r}.')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
