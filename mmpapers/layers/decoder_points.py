"""Decode foreign boxes: a DETR predicts at places that it did not choose, beside its own queries and unseen by them.

Such a place is a decoder's input: a box, and whatever the decoder's family needs beside it. The families of mmdet
differ in that, and only this module knows how.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.models.detectors import DABDETR, DDQDETR, DINO, DeformableDETR, GroundingDINO
from mmdet.models.layers import inverse_sigmoid
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySet, QuerySets, separated, take_mask


def dab_inputs(model: nn.Module, boxes: Tensor) -> dict[str, Tensor]:
    """DAB-DETR: anchors before the sigmoid, and no content."""
    anchors = inverse_sigmoid(boxes[..., :model.query_dim])
    return dict(query_pos=anchors, query=anchors.new_zeros(*anchors.shape[:2], model.embed_dims))


def deformable_inputs(model: nn.Module, boxes: Tensor) -> dict[str, Tensor]:
    """Deformable DETR: position and content from the box (two-stage), or the mean of the queries (one-stage)."""
    learned = getattr(model, 'query_embedding', None)
    if model.as_two_stage:
        made = model.pos_trans_norm(model.pos_trans_fc(model.get_proposal_pos_embed(inverse_sigmoid(boxes))))
        position, content = made.chunk(2, -1)
        if learned is not None:  # mixed selection
            content = learned.weight.mean(0).expand_as(position)
        return dict(query_pos=position, query=content, reference_points=boxes)
    position, content = learned.weight.mean(0).expand(*boxes.shape[:2], -1).chunk(2, -1)
    return dict(query_pos=position, query=content, reference_points=boxes[..., :2])


def dino_inputs(model: nn.Module, boxes: Tensor) -> dict[str, Tensor]:
    """DINO: the box as reference, and the mean of the learned contents."""
    return dict(query=model.query_embedding.weight.mean(0).expand(*boxes.shape[:2], -1), reference_points=boxes)


FAMILIES: dict[type, Callable[[nn.Module, Tensor], dict[str, Tensor]]] = {
    DINO: dino_inputs, DeformableDETR: deformable_inputs, DABDETR: dab_inputs}
OTHERS = (DDQDETR, GroundingDINO)  # subclasses of DINO whose queries drop out on the way, or depend on a text


def family(model: nn.Module) -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    """What makes decoder inputs of boxes for a model.

    Raises:
        TypeError: If its family has no such thing.
    """
    for kind, make in FAMILIES.items():
        if isinstance(model, kind) and not isinstance(model, OTHERS):
            return make
    raise TypeError('cannot decode given boxes; DAB-DETR, Deformable DETR and DINO can, and their subclasses except '
                    'DDQ DETR and Grounding DINO. Queries of DETR and Conditional DETR are learned vectors that stand '
                    'for no box')


@dataclass
class Decoded:
    """What a detector decoded in its latest pass.

    Args:
        outputs: Name of a set of points to class logits (layers, B, N, classes) and boxes (layers, B, N, 4).
        anchors: Boxes (B, queries, 4) in which the detector's own queries began; None where they are no boxes.
        own: Class logits and boxes of the queries that evaluation has too, without further sets and denoising; only if
            asked for.
    """

    outputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    anchors: Tensor | None = None
    own: tuple[Tensor, Tensor] | None = None


@contextlib.contextmanager
def decoding(model: nn.Module, points: Mapping[str, Tensor], attention: str = 'fold', own: bool = False,
             into: Decoded | None = None) -> Iterator[Decoded]:
    """Let a detector decode further points in each pass while the block runs; its own outputs stay what they are.

    Args:
        model: A detector of mmdet.
        points: Name to boxes (N, 4) for all images or (B, N, 4), as (cx, cy, w, h) in [0, 1]. May be empty.
        attention: ``'fold'`` or ``'mask'``, see :func:`~mmpapers.layers.query_sets.separated`.
        own: Whether ``Decoded.own`` is wanted.
        into: Where results go; a new object by default.

    Yields:
        What the latest pass decoded.

    Raises:
        TypeError: If there are points and the model's family cannot decode them.
    """
    make = family(model) if points else None
    decoded, forward = into or Decoded(), model.forward_decoder
    before = model.__dict__.get('forward_decoder')

    def predict(outputs: dict[str, Any], part: slice) -> tuple[Tensor, Tensor]:
        head = model.bbox_head
        return type(head).forward(head, **_cut(outputs, part))  # not seen by what listens to the head

    def forward_decoder(*args: Any, **inputs: Any) -> dict[str, Any]:
        decoded.anchors = _anchors(model, inputs)
        queries = inputs.get('query_sets') or QuerySets([
            QuerySet('own', inputs['query'].shape[1], inputs.get('dn_mask'))])
        if points:
            outputs = beside(queries, *args, **inputs)
        else:
            outputs = forward(*args, **inputs)
        if own:
            first = queries.sets[0]  # which denoising queries lead
            decoded.own = predict(outputs, slice(first.denoising(model.num_queries), first.size))
        return _cut(outputs, slice(0, queries.total)) if points else outputs

    def beside(queries: QuerySets, *args: Any, query_sets: QuerySets | None = None, **inputs: Any) -> dict[str, Any]:
        take_mask(inputs)  # which the set brings
        batch, further = len(inputs['query']), []
        for name, boxes in points.items():
            boxes = boxes if boxes.dim() == 3 else boxes.expand(batch, -1, -1)
            made = make(model, boxes.to(inputs['query'].dtype))
            inputs.update({key: torch.cat([inputs[key], value], 1) for key, value in made.items()})
            further.append(QuerySet(name, boxes.shape[1]))
        sets = QuerySets([*queries.sets, *further])
        with separated(model.decoder, sets, attention):
            outputs = forward(*args, **inputs)
        places = sets.slices()
        decoded.outputs = {name: predict(outputs, places[name]) for name in points}
        return outputs

    model.forward_decoder = forward_decoder
    try:
        yield decoded
    finally:
        del model.forward_decoder
        if before is not None:
            model.forward_decoder = before


def _anchors(model: nn.Module, inputs: dict[str, Any]) -> Tensor | None:
    """The boxes in which queries begin, without gradient."""
    if isinstance(model, DABDETR):
        anchors = inputs['query_pos'].sigmoid()
    else:
        anchors = inputs.get('reference_points')
    return anchors.detach() if anchors is not None and anchors.shape[-1] == 4 else None


def _cut(outputs: dict[str, Any], part: slice) -> dict[str, Any]:
    """Some queries of a decoder's outputs: hidden states and references (..., Q, C), or a list of references."""
    return {name: [each[..., part, :] for each in value] if isinstance(value, list) else value[..., part, :]
            for name, value in outputs.items()}
