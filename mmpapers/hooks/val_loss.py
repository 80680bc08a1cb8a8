"""Validation loss: every loss term on the validation data, leaving no trace in the training."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Subset

from mmpapers.registry import HOOKS

# Transforms of mmdet3d's training pipelines that draw random numbers; without them such a pipeline is deterministic.
_RANDOM_3D = frozenset({
    'ObjectSample', 'ObjectNoise', 'RandomFlip3D', 'GlobalRotScaleTrans', 'PointShuffle', 'RandomJitterPoints',
    'RandomDropPointsColor', 'RandomShiftScale', 'RandomResize3D', 'RandomCrop3D', 'PhotoMetricDistortion3D',
    'PolarMix', 'LaserMix'})


class NoLossPipeline(ValueError):
    """No pipeline that loads annotations in the network's coordinates could be derived from the config."""


@HOOKS.register_module()
class ValLossHook(Hook):
    """Add the loss terms on validation data to the metrics of each validation: ``loss``, ``loss_cls``, and so on.

    Stock validation pipelines load annotations after the resize, in the original image's coordinates, for the metric;
    a loss needs them in the network's. So the loader of the training pipeline is put right behind the image loader of
    the validation pipeline; a 3D training pipeline is taken without its random transforms. Where that is impossible
    the hook says so once and stays off; ``pipeline`` overrides it.

    The network is in training mode, as many heads compute their loss only there, but every leaf module and attention is
    in eval mode: batch norm uses its running statistics, dropout is off. Buffers, modes and all random states are
    afterwards what they were before, bit for bit.

    Args:
        interval: Every how many validations.
        max_images: Images, evenly spread over the validation set; None takes all.
        pipeline: Transforms to use instead of the derived ones.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which copies the metrics into the log

    def __init__(self, interval: int = 1, max_images: int | None = 512, pipeline: list[dict] | None = None) -> None:
        self.interval, self.max_images, self.pipeline = interval, max_images, pipeline
        self.off = False
        self._loader: DataLoader | None = None
        self._count = 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Compute the terms and put them among the metrics."""
        self._count += 1
        if self.off or metrics is None or self._count % self.interval:
            return
        try:
            with frozen_state(runner.model):
                terms = self._run(runner)
        except Exception as error:  # noqa: BLE001 - an optional figure must not end a training
            self.off = True
            runner.logger.warning(
                f'validation loss is off: {" ".join(str(error).split()) or type(error).__name__}. Give a pipeline by '
                'mmpapers_hooks=dict(ValLossHook=dict(pipeline=[...])), or say ValLossHook=False')
            return
        for name, value in terms.items():
            # mmengine logs a mean over the last validations of anything called loss; one value has no mean but itself.
            runner.message_hub.log_scalars.pop(f'val/{name}', None)
            metrics[name] = value

    def _run(self, runner: Runner) -> dict[str, float]:
        """Mean of every loss term over the images."""
        self._loader = self._loader or self._build(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        loss_mode(model)
        sums: dict[str, torch.Tensor] = {}
        images = 0
        with torch.no_grad():
            for batch in self._loader:
                data = prepare(model.data_preprocessor, batch)
                _, terms = model.parse_losses(model._run_forward(data, mode='loss'))
                size = _batch_size(data)
                images += size
                for name, value in terms.items():
                    if 'loss' in name:
                        sums[name] = sums.get(name, 0) + torch.as_tensor(value).double().cpu() * size
        total = torch.tensor([float(images), *map(float, sums.values())], dtype=torch.float64)
        if get_world_size() > 1:
            all_reduce(total)
        return {name: float(value / total[0]) for name, value in zip(sums, total[1:])}

    def _build(self, runner: Runner) -> DataLoader:
        """Build the validation set anew, with annotations for the loss, and a loader of this process's share."""
        cfg = runner.cfg.get('val_dataloader')
        if cfg is None:
            raise NoLossPipeline('the runner was given built data loaders, not a config')
        train = (runner.cfg.get('train_dataloader') or {}).get('dataset')
        dataset = DATASETS.build(loss_dataset(cfg['dataset'], train, self.pipeline))
        count = min(len(dataset), self.max_images or len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
        # Heads reduce their normalisers over processes, so every process must run the same number of batches.
        world = get_world_size()
        chosen = np.resize(chosen, -(-count // world) * world)[get_rank()::world]
        loader = runner.val_dataloader
        return DataLoader(Subset(dataset, chosen.tolist()), batch_size=loader.batch_size or 1,
                          num_workers=loader.num_workers, collate_fn=loader.collate_fn)


def loss_dataset(val: dict, train: dict | None, pipeline: list[dict] | None = None) -> dict:
    """Config of a validation set whose samples carry annotations in the network's coordinates.

    Args:
        val: Data set config of the validation, possibly of wrappers around data sets.
        train: Data set config of the training, whose pipeline says how annotations are loaded.
        pipeline: Used as it is instead of a derived one.

    Returns:
        A changed copy of ``val``.

    Raises:
        NoLossPipeline: If neither pipeline loads annotations.
    """
    cfg = copy.deepcopy(val)
    for leaf in _leaf_configs(cfg):
        of_train = next((d['pipeline'] for d in _leaf_configs(train or {}) if d.get('pipeline')), [])
        leaf['pipeline'] = copy.deepcopy(pipeline) or loss_pipeline(leaf.get('pipeline', []), of_train)
        if any(_name(t).startswith('Pack3D') for t in leaf['pipeline']):
            leaf.update(test_mode=False, filter_empty_gt=False)
    return cfg


def loss_pipeline(val: list[dict], train: list[dict]) -> list[dict]:
    """Derive a pipeline for the loss from those of validation and training (see :class:`ValLossHook`).

    Raises:
        NoLossPipeline: If no transform of either loads annotations, or none loads an image.
    """
    if any(_name(t).startswith('Pack3D') for t in [*val, *train]):
        if not train:
            raise NoLossPipeline('the training pipeline, which says what a 3D loss needs, is not in the config')
        return copy.deepcopy([t for t in train if _name(t) not in _RANDOM_3D])
    loader = next((t for t in [*train, *val] if _is_annotation_loader(t)), None)
    if loader is None:
        raise NoLossPipeline('neither train_dataloader nor val_dataloader has a pipeline that loads annotations')
    rest = [t for t in val if not _is_annotation_loader(t)]
    last = max((i for i, t in enumerate(rest) if _name(t).startswith('LoadImage')), default=None)
    if last is None:
        raise NoLossPipeline('the pipeline of val_dataloader has no transform that loads an image')
    return copy.deepcopy([*rest[:last + 1], loader, *rest[last + 1:]])


def prepare(preprocessor: nn.Module, batch: Any) -> dict:
    """Preprocess a batch as in training (padded labels and masks) but without random batch augmentations."""
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is not None:
        preprocessor.batch_augments = None
    try:
        return preprocessor(batch, True)
    finally:
        if augments is not None:
            preprocessor.batch_augments = augments


def loss_mode(model: nn.Module) -> None:
    """Training mode for what decides between branches, eval mode for what keeps statistics or draws numbers."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) or not any(module.children()):
            module.training = False


@contextmanager
def frozen_state(model: nn.Module) -> Iterator[None]:
    """Restore modes and buffers of a model and the random states of torch, CUDA, numpy and Python on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, buffer, buffer.detach().clone()) for module in model.modules()
               for name, buffer in module._buffers.items() if buffer is not None]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer
            buffer.data.copy_(value)
        for module, mode in modes:
            module.training = mode


def _leaf_configs(cfg: dict) -> Iterator[dict]:
    """Data set configs below wrappers."""
    children = cfg.get('datasets') or ([cfg['dataset']] if 'dataset' in cfg else [])
    for child in children:
        yield from _leaf_configs(child)
    if not children and cfg:
        yield cfg


def _name(transform: dict) -> str:
    """Class name of a transform of a text or lazy config."""
    kind = transform.get('type', '')
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def _is_annotation_loader(transform: dict) -> bool:
    """Whether a transform loads annotations (LoadAnnotations, LoadPanopticAnnotations, ...)."""
    return _name(transform).startswith('Load') and 'Annotation' in _name(transform)


def _batch_size(data: Any) -> int:
    """Images of a preprocessed batch."""
    samples = data.get('data_samples') if isinstance(data, dict) else None
    return len(samples) if samples is not None else len(data['inputs'] if isinstance(data, dict) else data[0])
