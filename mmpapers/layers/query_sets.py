"""Query sets: several sets of queries go through one DETR decoder in one pass and never see one another.

In a decoder only self-attention lets queries meet; cross-attention, feed-forward and box refinement act on each query
alone. So keeping sets apart is a matter of ``self_attn`` only, and works for every decoder of mmdet, whatever it calls
its masks: :func:`separated` stands in for the attention's ``forward`` while the decoder runs, and then takes itself
away.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODES = ('fold', 'mask')
QUERY_INPUTS = ('query', 'query_pos', 'reference_points')  # of a decoder, one row for each query
TRAINING_ONLY = ('query_embedding_one2many.', 'query_groups.')  # modules of sets that evaluation does not use
_PER_QUERY = ('query', 'key', 'value', 'identity', 'query_pos', 'key_pos')


@dataclass(frozen=True)
class QuerySet:
    """One set of queries.

    Args:
        name: What the set is called in messages and pictures.
        size: Number of queries.
        mask: Attention inside the set (size, size), True where blocked, such as DINO's rules for denoising queries;
            None if all see all.
    """

    name: str
    size: int
    mask: Tensor | None = None

    def denoising(self, queries: int) -> int:
        """How many denoising queries lead a set that brings their rules.

        Args:
            queries: Queries of the set besides them.
        """
        return 0 if self.mask is None else self.size - queries


class QuerySets:
    """Sets of queries in the order in which they lie along the query axis.

    Args:
        sets: The sets; names are unique, sizes positive or 0.

    Raises:
        ValueError: If two sets have one name.
    """

    def __init__(self, sets: Sequence[QuerySet]) -> None:
        names = [each.name for each in sets]
        if len(set(names)) != len(names):
            raise ValueError(f'two query sets have the same name: {names}')
        self.sets = tuple(sets)

    @property
    def total(self) -> int:
        """Number of all queries."""
        return sum(each.size for each in self.sets)

    def slices(self) -> dict[str, slice]:
        """Where each set lies along the query axis."""
        ends = list(itertools.accumulate(each.size for each in self.sets))
        return {each.name: slice(end - each.size, end) for each, end in zip(self.sets, ends)}

    def split(self, tensor: Tensor, dim: int) -> dict[str, Tensor]:
        """Cut a tensor of all queries into those of each set (views)."""
        parts = tensor.split([each.size for each in self.sets], dim)
        return {each.name: part for each, part in zip(self.sets, parts)}

    def mask(self, device: torch.device | str = 'cpu') -> Tensor:
        """Boolean mask (total, total) for one attention over all sets, True where a query may not look."""
        blocked = torch.ones(self.total, self.total, dtype=torch.bool, device=device)
        for each, part in zip(self.sets, self.slices().values()):
            blocked[part, part] = False if each.mask is None else each.mask.to(device)
        return blocked

    def runs(self) -> list[tuple[slice, int, Tensor | None]]:
        """Neighbouring sets of equal size and equal rules, which can share one attention call.

        Returns:
            For each run: where it lies, how many sets it holds, and the mask inside each of them.
        """
        found, start = [], 0
        for (size, _), group in itertools.groupby(self.sets, lambda each: (each.size, id(each.mask))):
            members = list(group)
            end = start + size * len(members)
            if size:
                found.append((slice(start, end), len(members), members[0].mask))
            start = end
        return found


@contextlib.contextmanager
def separated(decoder: nn.Module, sets: QuerySets, mode: str = 'fold') -> Iterator[None]:
    """Let the queries of a decoder's layers attend within their own set only, while the block runs.

    ``'fold'`` puts sets of equal size into the batch axis, and attends set by set where sizes differ, so that memory
    grows with the sum of squares instead of the square of the sum. ``'mask'`` is one attention with a block mask. Both
    give the same values; with attention dropout they draw different random numbers.

    Args:
        decoder: A decoder with ``layers``, each with a ``self_attn`` that takes (batch, queries, channels).
        sets: The sets, in the order of the decoder's queries.
        mode: ``'fold'`` or ``'mask'``.

    Raises:
        ValueError: If the mode is unknown, or the decoder's queries are not as many as the sets'.
    """
    if mode not in MODES:
        raise ValueError(_unknown(mode))
    attentions = [layer.self_attn for layer in decoder.layers]
    before = [attention.__dict__.get('forward') for attention in attentions]
    apart = _folded if mode == 'fold' else _masked
    try:
        if len(sets.sets) > 1 or any(each.mask is not None for each in sets.sets):
            for attention in attentions:
                attention.forward = apart(attention.forward, sets)
        yield
    finally:
        for attention, forward in zip(attentions, before):
            attention.__dict__.pop('forward', None)
            if forward is not None:
                attention.forward = forward


def _folded(forward: Callable[..., Tensor], sets: QuerySets) -> Callable[..., Tensor]:
    """An attention that is called once for each run of equal sets, with the sets in the batch."""
    runs = sets.runs()

    def attend(query: Tensor, *args: Any, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        per_query = _arguments(query, args, attn_mask, kwargs, sets)
        outputs = []
        for part, count, mask in runs:
            inner = {name: value[:, part].unflatten(1, (count, -1)).flatten(0, 1) for name, value in per_query.items()}
            output = forward(**{**kwargs, **inner}, attn_mask=mask)  # (B * count, size, C)
            outputs.append(output.unflatten(0, (-1, count)).flatten(1, 2))
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
    return attend


def _masked(forward: Callable[..., Tensor], sets: QuerySets) -> Callable[..., Tensor]:
    """An attention over all queries with a block mask."""
    masks: dict[torch.device, Tensor] = {}

    def attend(query: Tensor, *args: Any, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        per_query = _arguments(query, args, attn_mask, kwargs, sets)
        if query.device not in masks:
            masks[query.device] = sets.mask(query.device)
        return forward(**{**kwargs, **per_query}, attn_mask=masks[query.device])
    return attend


def _arguments(query: Tensor, args: tuple, mask: Tensor | None, kwargs: dict[str, Any], sets: QuerySets
               ) -> dict[str, Tensor]:
    """The arguments that have a row for each query."""
    if args or mask is not None:
        raise ValueError('query sets bring their own attention masks (QuerySet.mask); the decoder must be called '
                         'without one, and its layers must name the arguments of self_attn')
    if query.shape[1] != sets.total:
        raise ValueError(f'the decoder has {query.shape[1]} queries and the sets {sets.total} '
                         f'({", ".join(f"{each.name} {each.size}" for each in sets.sets)})')
    named = dict(query=query, **kwargs)
    return {name: named[name] for name in _PER_QUERY if named.get(name) is not None}


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Decoder inputs of several sets as one: queries one set after the other, all else as in the first."""
    return {**parts[0], **{name: torch.cat([part[name] for part in parts], 1)
                           for name in QUERY_INPUTS if name in parts[0]}}


def take_mask(inputs: dict[str, Any]) -> Tensor | None:
    """Take DINO's mask of denoising queries out of its decoder's inputs, for the set that brings it."""
    mask = inputs.get('dn_mask')
    if 'dn_mask' in inputs:  # which the decoder's call still names
        inputs['dn_mask'] = None
    return mask


class QuerySetsMixin:
    """For detectors of mmdet: ``pre_decoder`` returns ``query_sets`` among the inputs of decoder and head.

    Args:
        attention: How sets are kept apart, see :func:`separated`.
    """

    def __init__(self, *args: Any, attention: str = 'fold', **kwargs: Any) -> None:
        if attention not in MODES:
            raise ValueError(_unknown(attention))
        self.attention = attention
        super().__init__(*args, **kwargs)

    def forward_decoder(self, *args: Any, query_sets: QuerySets | None = None, **inputs: Any) -> dict[str, Any]:
        """The base detector's decoder, with sets that do not meet."""
        if query_sets is None:
            return super().forward_decoder(*args, **inputs)
        with separated(self.decoder, query_sets, self.attention):
            return super().forward_decoder(*args, **inputs)


@contextlib.contextmanager
def standing_in(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put other modules in the place of a model's own while the block runs.

    Args:
        model: The model.
        modules: Path of a module to the one that stands in for it.

    Raises:
        AttributeError: If a path does not exist.
    """
    places = []
    for path in modules:
        parent, _, name = path.rpartition('.')
        places.append((model.get_submodule(parent), name, model.get_submodule(path)))
    try:
        for (parent, name, _), module in zip(places, modules.values()):
            parent._modules[name] = module
        yield
    finally:
        for parent, name, own in places:
            parent._modules[name] = own


def _unknown(mode: str) -> str:
    return f"attention={mode!r}; take 'fold' (less memory) or 'mask' (one masked attention)"
