"""Random batches and dry runs: what a model's modules compute, found by running it once instead of by reading it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmpapers.config_tree import walk

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


def family(model: nn.Module) -> str:
    """Return which kind of input a model takes: ``'det3d'``, ``'seg'`` or ``'det'``."""
    names = {cls.__name__ for cls in type(model).__mro__}
    if names & {'Base3DDetector', 'Base3DSegmentor'}:
        return 'det3d'
    return 'seg' if 'BaseSegmentor' in names else 'det'


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
