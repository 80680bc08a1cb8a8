"""Pictures of a DETR's decoder: where queries look, which query of each set met which object, teacher and student."""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpapers import compat

from . import console, runtime
from .check import add_config_arguments
from .distill_report import batches, image_of

_READABLE = 40  # matches of a tile that still have their query's number beside them


def main(argv: Sequence[str] | None = None) -> int:
    """Draw.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 1 if a model does not run; 2 if config or checkpoint is wrong, or the model is no DETR.
    """
    parser = argparse.ArgumentParser('view_detr', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the run')
    parser.add_argument('--out', type=Path, default=Path('detr'), help='folder to write to (default %(default)s)')
    parser.add_argument('--images', type=int, default=4, help='validation images (default 4)')
    parser.add_argument('--queries', type=int, default=6, help='best queries whose attention is drawn (default 6)')
    args = parser.parse_args(argv)
    return runtime.run(lambda: view(args))


def view(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`.

    Raises:
        UserError: If the model is no DETR.
    """
    compat.setup()  # before anything imports mmcv.ops
    from mmdet.models.detectors.base_detr import DetectionTransformer

    from mmpapers.cli.train import require_file
    from mmpapers.compat import checkpoint as checkpoints
    from mmpapers.distill.overlay import expand
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        expand(cfg)
        require_file(args.checkpoint)
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        if not isinstance(model, DetectionTransformer):
            raise runtime.UserError(f'{type(model).__name__} is no DETR of mmdet (DetectionTransformer); this tool '
                                    'draws the queries of DETR, Conditional DETR, DAB-DETR, Deformable DETR, DINO')
        content = checkpoints.read(args.checkpoint, map_location='cpu')
        model.load_state_dict(content.get('state_dict', content), strict=True)
        model.eval()
    args.out.mkdir(parents=True, exist_ok=True)
    with console.quiet_stack():
        shown = [draw(cfg, model, batch, args.queries) for batch in batches(cfg, 'val', 1, args.images)]
    for number, pictures in enumerate(shown):
        for kind, picture in pictures.items():
            file = args.out / f'{number:03d}_{kind}.png'
            picture.savefig(file)
            print(file)
    return 0


def draw(cfg: Config, model: Any, batch: dict, queries: int) -> dict[str, Any]:
    """Pictures of one image.

    Args:
        cfg: The config, for class names.
        model: The detector, in eval mode.
        batch: A collated batch of one.
        queries: Queries whose attention is drawn.

    Returns:
        ``attention``; ``matches`` if the image has labels; ``teacher`` for a student of ``mmpapers.KDDETR``.
    """
    image = image_of(batch)
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    inputs, samples = data['inputs'], data['data_samples']
    names = (cfg.get('metainfo') or cfg.val_dataloader.dataset.get('metainfo') or {}).get('classes')
    found = dict(attention=_attention(model, image, inputs, samples, queries, names))
    labelled = 'gt_instances' in samples[0] and len(samples[0].gt_instances)
    if labelled and getattr(model.bbox_head, 'assigner', None) is not None:
        found['matches'] = _matches(model, image, inputs, _in_input(cfg, samples))
    if getattr(model, 'teacher', None) is not None and hasattr(model, 'draw'):
        found['teacher'] = _teacher(model, image, inputs, samples)
    return found


def _attention(model: Any, image: np.ndarray, inputs: Any, samples: Sequence, count: int, names: Sequence[str] | None
               ) -> Any:
    """The best queries, their boxes and where they looked."""
    from mmpapers.visualization import detr
    decoded, _ = detr.decode(model, inputs, samples)
    size = tuple(inputs.shape[-2:])
    best, labels = decoded.scores.max(-1)
    chosen = best.argsort(descending=True)[:count].tolist()
    made, axes = detr.figure(len(chosen), 3, image)
    for tile, query in zip(axes, chosen):
        label = int(labels[query])
        name = names[label] if names else label
        detr.tile(tile, image, f'query {query}: {name} {float(best[query]):.2f}', dim=0.75)
        detr.look(tile, image, size, decoded.attention, query)
        detr.box(tile, decoded.boxes[query] * _scale(inputs), 'deepskyblue')
    return made


def _matches(model: Any, image: np.ndarray, inputs: Any, samples: Sequence) -> Any:
    """Objects, and beside each the queries that training would give it, one tile a set."""
    from mmpapers.visualization import detr
    decoded, raw = detr.decode(model, inputs, samples, training=True)
    pairs = detr.matches(model, raw, samples[0], decoded.sets)
    shown = list(pairs)[:12]
    made, axes = detr.figure(len(shown), 3, image)
    scale = _scale(inputs)
    for index, (tile, name) in enumerate(zip(axes, shown)):
        detr.tile(tile, image, f'{name}: {len(pairs[name])} matches', dim=0.75)
        for corners in samples[0].gt_instances.bboxes:
            detr.box(tile, corners, 'white')
        crowded = len(pairs[name]) > _READABLE
        for query, gt in pairs[name]:
            corners = decoded.boxes[query] * scale
            detr.box(tile, corners, detr.set_colour(index), '' if crowded else str(query), dashed=True,
                     width=0.6 if crowded else 1.4)
            middle = samples[0].gt_instances.bboxes[gt].view(2, 2).mean(0)
            tile.plot(*zip(((corners[:2] + corners[2:]) / 2).tolist(), middle.tolist()), color=detr.set_colour(index),
                      linewidth=0.8)
    return made


def _teacher(model: Any, image: np.ndarray, inputs: Any, samples: Sequence) -> Any:
    """What teacher and student say at the teacher's own points."""
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps

    from mmpapers.layers import decoder_points
    from mmpapers.visualization import detr
    with torch.no_grad():
        with decoder_points.decoding(model.teacher.model, {}) as own:
            teacher, raw = detr.decode(model.teacher.model, model.teacher.translate(
                inputs, samples, model.data_preprocessor), samples)
        anchors = own.anchors if own.anchors is not None else raw[1][-1]
        with decoder_points.decoding(model, dict(specific=anchors)) as there:
            detr.decode(model, inputs, samples)
    scores, boxes = (value[-1, 0] for value in there.outputs['specific'])
    corners = bbox_cxcywh_to_xyxy(boxes)
    best = teacher.scores.amax(-1).argsort(descending=True)[:12].tolist()
    overlap = bbox_overlaps(corners[best], teacher.boxes[best], is_aligned=True)
    made, axes = detr.figure(2, 2, image)
    scale = _scale(inputs)
    detr.tile(axes[0], image, f'teacher (solid) and student (dashed) at the teacher\'s points, IoU '
              f'{float(overlap.mean()):.2f}', dim=0.75)
    detr.tile(axes[1], image, 'the points themselves', dim=0.75)
    for rank, query in enumerate(best):
        colour = detr.set_colour(rank)
        detr.box(axes[0], teacher.boxes[query] * scale, colour, str(query))
        detr.box(axes[0], corners[query] * scale, colour, dashed=True)
        detr.box(axes[1], bbox_cxcywh_to_xyxy(anchors[0, query]) * scale, colour, str(query))
    return made


def _scale(inputs: torch.Tensor) -> torch.Tensor:
    """What makes pixels of the network's input of boxes in [0, 1]."""
    return inputs.new_tensor(inputs.shape[-2:][::-1]).repeat(2)


def _in_input(cfg: Config, samples: Sequence) -> Sequence:
    """Samples whose labels are in pixels of the network's input; a pipeline may load them after it has resized."""
    sample = samples[0].clone()
    gt = sample.gt_instances.clone()
    boxes = getattr(gt.bboxes, 'tensor', gt.bboxes)
    steps = [str(step.get('type')) for step in cfg.val_dataloader.dataset.get('pipeline', ())]
    resized = next((place for place, step in enumerate(steps) if 'Resize' in step), len(steps))
    if any('LoadAnnotations' in step for step in steps[resized:]):
        boxes = boxes * boxes.new_tensor(sample.metainfo['scale_factor']).repeat(2)
    gt.bboxes = boxes
    sample.gt_instances = gt
    return [sample]


if __name__ == '__main__':
    raise SystemExit(main())
