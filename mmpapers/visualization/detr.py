"""Look inside a DETR's decoder: where each query looks, and which query of which set met which object."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySets
from mmpapers.layers.set_matching import match

_SET_COLOURS = matplotlib.colormaps['tab10'].colors


@dataclass
class Attention:
    """Cross-attention of the last decoder layer, one image.

    Args:
        points: Sampling points (queries, N, 2) as (x, y) in [0, 1] of the padded input; None for dense attention.
        weights: Their weights (queries, N), mean over heads; for dense attention those of the map's cells.
        shape: Height and width of the map that dense attention looks at.
    """

    points: Tensor | None = None
    weights: Tensor | None = None
    shape: tuple[int, int] | None = None


@dataclass
class Decoded:
    """What a detector's decoder gave for one image.

    Args:
        scores: Class probabilities (queries, classes) of the last layer.
        boxes: (queries, 4) as (x1, y1, x2, y2) in [0, 1] of the padded input.
        attention: Where queries looked.
        sets: Name of a set to the positions of its queries; denoising queries are left out.
    """

    scores: Tensor
    boxes: Tensor
    attention: Attention
    sets: dict[str, range] = field(default_factory=dict)


@torch.no_grad()
def decode(model: nn.Module, inputs: Tensor, samples: Sequence[Any], training: bool = False) -> tuple[Decoded, Any]:
    """Run a detector on one image and see what its last decoder layer did.

    Args:
        model: A DETR of mmdet, in eval mode.
        inputs: Preprocessed image (1, 3, H, W).
        samples: Its data sample.
        training: Whether all query sets take part, as in training (layers stay in eval mode).

    Returns:
        What it decoded, and the raw outputs of all layers: logits (layers, 1, Q, C) and boxes (cx, cy, w, h).
    """
    own = model.training
    model.training = training
    try:
        features = model.extract_feat(inputs)
        with _listening(model) as attention:
            made = model.forward_transformer(features, samples)
        attention.shape = tuple(features[-1].shape[-2:])
    finally:
        model.training = own
    sets = made.pop('query_sets', None)
    keep = {name: made[name] for name in ('hidden_states', 'references') if name in made}
    scores, boxes = model.bbox_head.forward(**keep)
    places = _places(sets, model.num_queries, scores.shape[2])
    sigmoid = model.bbox_head.loss_cls.use_sigmoid
    probability = scores[-1, 0].sigmoid() if sigmoid else scores[-1, 0].softmax(-1)[:, :-1]
    return Decoded(probability, bbox_cxcywh_to_xyxy(boxes[-1, 0]), attention, places), (scores, boxes)


def _places(sets: QuerySets | None, own: int, total: int) -> dict[str, range]:
    """Positions of every set's queries; denoising queries lie first in a set and are not among them."""
    if sets is None:
        return dict(queries=range(total - min(own, total), total))
    return {each.name: range(part.start + each.denoising(own), part.stop)
            for each, part in zip(sets.sets, sets.slices().values())}


def matches(model: nn.Module, raw: tuple[Tensor, Tensor], sample: Any, places: dict[str, range]
            ) -> dict[str, list[tuple[int, int]]]:
    """Which query of each set the last layer's Hungarian matching gives to which object.

    Args:
        model: The detector.
        raw: Logits and boxes of all layers, from :func:`decode`.
        sample: Data sample with labels.
        places: Positions of every set's queries.

    Returns:
        Set to pairs (query, object). The one-to-many set of H-DETR has K queries for an object.
    """
    scores, boxes = raw
    found = {}
    for name, part in places.items():
        gt = sample.gt_instances
        times = getattr(model.bbox_head, 'k_one2many', 1) if name == 'one2many' else 1
        several = gt[torch.arange(len(gt)).repeat(times)]
        span = slice(part.start, part.stop)
        row = match(model.bbox_head.assigner, scores[-1:, :, span], boxes[-1:, :, span], [several], [sample.metainfo])
        found[name] = [(part.start + query, (int(row[0, 0, query]) - 1) % len(gt))
                       for query in row[0, 0].nonzero().flatten().tolist()]
    return found


@contextlib.contextmanager
def _listening(model: nn.Module) -> Iterator[Attention]:
    """Hear what the last layer's cross-attention does while the block runs."""
    attention, module = Attention(), model.decoder.layers[-1].cross_attn
    with contextlib.ExitStack() as stack:
        if isinstance(module, MultiScaleDeformableAttention):
            heard: dict[str, Tensor] = {}
            for name in ('sampling_offsets', 'attention_weights'):
                stack.callback(getattr(module, name).register_forward_hook(
                    lambda _, __, output, name=name: heard.update({name: output})).remove)

            def note(_: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
                attention.points, attention.weights = _sampled(
                    module, heard, kwargs['reference_points'], kwargs['spatial_shapes'])
            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        elif hasattr(module, 'attn'):  # mmcv's wrapper of nn.MultiheadAttention
            stack.callback(module.attn.register_forward_hook(
                lambda _, __, output: setattr(attention, 'weights', output[1][0])).remove)
        else:
            own = module.forward_attn

            def forward_attn(*args: Any, **kwargs: Any) -> Any:
                output = own(*args, **kwargs)
                attention.weights = output[1][0]
                return output
            module.forward_attn = forward_attn
            stack.callback(module.__dict__.pop, 'forward_attn')
        yield attention


def _sampled(module: nn.Module, heard: dict[str, Tensor], references: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """Sampling points (Q, N, 2) and weights (Q, N) of the first image, over all heads, levels and points."""
    size = (references.shape[1], module.num_heads, module.num_levels, module.num_points)
    offsets = heard['sampling_offsets'][0].view(*size, 2)
    weights = heard['attention_weights'][0].view(*size[:2], -1).softmax(-1).view(size)
    centres = references[0, :, None, :, None, :2]  # (Q, 1, levels, 1, 2)
    if references.shape[-1] == 4:
        points = centres + offsets / module.num_points * references[0, :, None, :, None, 2:] / 2
    else:
        points = centres + offsets / shapes.flip(1)[None, None, :, None, :]
    return points.reshape(size[0], -1, 2), weights.reshape(size[0], -1) / module.num_heads


def figure(tiles: int, columns: int, image: np.ndarray) -> tuple[Figure, Sequence[Axes]]:
    """A figure of equal tiles in the shape of an image, at most so many in a row, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    columns = min(columns, tiles)
    rows = -(-tiles // columns)
    width = max(3.4, 9 / columns)  # inches of a tile
    height = width * image.shape[0] / image.shape[1] + 0.35
    made = Figure(figsize=(width * columns, height * rows), layout='constrained', dpi=110)
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[tiles:]:
        spare.set_axis_off()
    return made, axes[:tiles]


def tile(axes: Axes, image: np.ndarray, title: str, dim: float = 1.) -> None:
    """Show an image (H, W, 3), RGB, as background; ``dim`` darkens it."""
    axes.imshow((image * dim).astype(np.uint8), extent=(0, image.shape[1], image.shape[0], 0))
    axes.set_xlim(0, image.shape[1])
    axes.set_ylim(image.shape[0], 0)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def box(axes: Axes, corners: Sequence[float], colour: Any, text: str = '', dashed: bool = False, width: float = 1.4
        ) -> None:
    """Draw a box (x1, y1, x2, y2) in pixels with a label, with lines of so many points."""
    left, top, right, bottom = map(float, corners)
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width,
                             linestyle='--' if dashed else '-'))
    if text:
        axes.text(left, top, text, fontsize=6, color='white', va='bottom', clip_on=True,
                  bbox=dict(facecolor=colour, edgecolor='none', pad=0.6, alpha=0.85))


def look(axes: Axes, image: np.ndarray, size: tuple[int, int], attention: Attention, query: int) -> None:
    """Draw where a query looked: sampling points by weight, or a heat map.

    Args:
        axes: Tile to draw in.
        image: (H, W, 3), RGB, without padding.
        size: Height and width of the padded input.
        attention: Of all queries.
        query: Position of the query.
    """
    weights = attention.weights[query].cpu().numpy()
    if attention.points is None:
        heat = weights.reshape(attention.shape)
        axes.imshow(heat, extent=(0, size[1], size[0], 0), cmap='inferno', alpha=0.65, interpolation='bilinear')
        axes.set_xlim(0, image.shape[1])
        axes.set_ylim(image.shape[0], 0)
        return
    points = attention.points[query].cpu().numpy() * np.array(size[::-1])
    order = weights.argsort()
    axes.scatter(points[order, 0], points[order, 1], c=weights[order], s=2 + 24 * weights[order] / weights.max(),
                 cmap='autumn_r', edgecolors='black', linewidths=0.2, alpha=0.85)


def set_colour(index: int) -> Any:
    """Colour of a query set."""
    return _SET_COLOURS[index % len(_SET_COLOURS)]
