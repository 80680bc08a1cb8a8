"""Run a model's network once, without its loss and without its post-processing."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmpapers import dry_run

SHAPE = (128, 128)


def run(model: nn.Module, inputs: Any, samples: Sequence, auxiliary: bool = False) -> None:
    """Run backbone, neck and heads in the order of the model's own ``tensor`` mode.

    Args:
        model: The model.
        inputs: Preprocessed inputs, as ``model.loss`` takes them.
        samples: Data samples; labels are not used.
        auxiliary: Run mmseg's auxiliary heads too, which that mode leaves out.
    """
    if hasattr(model, 'pts_bbox_head'):  # mmdet3d's multi-view detectors have no such mode
        images, points = model.extract_feat(inputs, [sample.metainfo for sample in samples])
        model.pts_bbox_head(points)
        return
    if not auxiliary:
        model(inputs, samples, mode='tensor')
        return
    features, extract = [], model.extract_feat
    try:
        model.extract_feat = lambda images: features.append(extract(images)) or features[0]
        model(inputs, samples, mode='tensor')
    finally:
        del model.extract_feat
    heads = model.auxiliary_head
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        head.forward(features[0])


def rehearse(model: nn.Module, cfg: dict | None, auxiliary: bool = False, shape: tuple[int, int] = SHAPE) -> None:
    """Run a model on two random samples in eval mode without gradients, and leave modes and generators as they were.

    Args:
        model: The model.
        cfg: Its config, which knows the range of point clouds; not needed for images.
        auxiliary: See :func:`run`.
        shape: Image (height, width).
    """
    modes = [(module, module.training) for module in model.modules()]
    whole = Config(dict(model=cfg or {}))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        batch = dry_run.fake_batch(whole, model, shape, size=2)
        model.eval()
        try:
            data = model.data_preprocessor(batch, False)
            run(model, data['inputs'], data['data_samples'], auxiliary)
        finally:
            for module, mode in modes:
                module.training = mode
