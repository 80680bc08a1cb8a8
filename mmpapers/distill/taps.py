"""Taps: read what modules of a model compute, in the pass that computes the loss, and leave the model as it was.

A tap is a module path, as ``tools/inspect_model.py`` prints it, with up to two additions::

    'neck'                     what the module returned
    'neck[1]' 'neck[:3]'       one or some elements of a returned tuple (levels)
    'bbox_head.retina_cls'     a module that is called once per level gives one tensor a call
    'bbox_head.retina_cls<'    what went in (its first argument) instead of what came out
    'backbone.layers.3 tokens=1'   tokens (B, 1 + H * W, C): drop the first one and fold the rest into (B, C, H, W)

Heads are called by ``forward`` directly in OpenMMLab, which hooks of ``nn.Module`` do not see; so a tap stands in for
``forward`` itself, on the instance, and only while a loss is computed.
"""

import contextlib
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmpapers.distill.errors import DistillError

_SYNTAX = re.compile(r'^(?P<path>[\w.]+)(?P<inward><)?(?:\[(?P<index>-?\d*:?-?\d*)\])?(?:\s+tokens=(?P<tokens>\d+))?$')


class TapError(DistillError):
    """A tap that does not fit its model; the message names the nearest paths."""


class Stop(Exception):
    """Raised by the last tap to end a forward pass whose rest nobody needs."""


@dataclass
class Tap:
    """One tapped module.

    Args:
        text: What the config says.
        path: Module path.
        inward: Whether the first argument is meant instead of the output.
        index: Element or slice of a returned tuple; None for all of it.
        tokens: Leading tokens to drop before tokens are folded into a map; None for a tensor that is no token sequence.
        clone: Whether the value is copied, because something later writes over it in place (found in a dry run).
    """

    text: str
    path: str
    inward: bool = False
    index: int | slice | None = None
    tokens: int | None = None
    clone: bool = False

    @classmethod
    def parse(cls, text: str) -> 'Tap':
        """Read a tap.

        Raises:
            TapError: If it cannot be read.
        """
        found = _SYNTAX.match(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise TapError(f"tap {text!r} cannot be read; write a module path such as 'neck', 'neck[1]', 'neck[:3]', "
                           "'bbox_head.retina_cls<' (its input) or 'backbone.layers.3 tokens=1'")
        index = found['index']
        if index is not None:
            parts = [int(part) if part else None for part in index.split(':')]
            index = slice(*parts) if len(parts) > 1 else parts[0]
            if index is None:
                raise TapError(f'tap {text!r} has empty brackets; write one level, [1], or some, [:3]')
        tokens = found['tokens']
        return cls(text, found['path'], bool(found['inward']), index, None if tokens is None else int(tokens))

    def select(self, value: Any) -> list[Tensor]:
        """The tensors of one call.

        Raises:
            TapError: If there is no tensor, or none at this index.
        """
        if isinstance(value, dict):
            value = list(value.values())
        levels = list(value) if isinstance(value, list | tuple) else [value]
        if self.index is not None:
            try:
                levels = levels[self.index]
            except IndexError:
                raise TapError(f'tap {self.text!r}: {self.path} gives {len(levels)} elements') from None
            levels = levels if isinstance(levels, list) else [levels]
        tensors = [item for level in levels for item in (level if isinstance(level, list | tuple) else [level])
                   if isinstance(item, Tensor)]
        if not tensors:
            raise TapError(f'tap {self.text!r}: {self.path} {"takes" if self.inward else "gives"} no tensor but '
                           f'{type(value).__name__}')
        return tensors if self.tokens is None else [fold_tokens(tensor, self.tokens, self.text) for tensor in tensors]


def fold_tokens(tensor: Tensor, leading: int, text: str = '') -> Tensor:
    """Fold tokens (B, leading + H * W, C) with H = W into a map (B, C, H, W).

    Raises:
        TapError: If the remaining tokens do not make a square.
    """
    count = tensor.shape[1] - leading if tensor.dim() == 3 else -1
    side = math.isqrt(max(count, 0))
    if count < 1 or side * side != count:
        raise TapError(f'tap {text!r}: a tensor of shape {tuple(tensor.shape)} less {leading} tokens is no square map')
    return tensor[:, leading:].transpose(1, 2).reshape(tensor.shape[0], tensor.shape[2], side, side)


@dataclass
class Record:
    """What the taps of one pass saw.

    Args:
        values: Tap text to tensors: levels of a tuple, or one tensor per call of a module that is called per level.
        versions: For each tensor that was not copied, tap text, the tensor and its version when it was seen.
        events: Calls of tapped modules so far.
    """

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    versions: list[tuple[str, Tensor, int]] = field(default_factory=list)
    events: int = 0

    def __getitem__(self, text: str) -> list[Tensor]:
        return self.values[text]

    def overwritten(self) -> set[str]:
        """Taps whose value was changed in place after it was seen."""
        return {text for text, tensor, version in self.versions if tensor._version != version}


class Taps:
    """The taps of one model.

    Args:
        model: The model.
        texts: Taps as the config says them.
        owner: Who the model is in messages, ``'student'`` or ``'teacher'``.

    Raises:
        TapError: If a path does not exist in the model, with the nearest ones.
    """

    def __init__(self, model: nn.Module, texts: Sequence[str], owner: str = 'model') -> None:
        self.taps = [Tap.parse(text) for text in dict.fromkeys(texts)]
        self.owner = owner
        self.events = 0  # calls of tapped modules in one pass, known after a dry run
        modules = dict(model.named_modules())
        for tap in self.taps:
            if tap.path not in modules or not tap.path:
                raise TapError(f'the {owner} ({type(model).__name__}) has no module {tap.path!r}'
                               f'{_nearest(tap.path, modules)}. `python tools/inspect_model.py CONFIG` lists all.')

    @property
    def auxiliary(self) -> bool:
        """Whether something in mmseg's auxiliary heads is tapped, which must then be run."""
        return any(tap.path.startswith('auxiliary_head') for tap in self.taps)

    @contextlib.contextmanager
    def recording(self, model: nn.Module, stop: bool = False) -> Iterator[Record]:
        """Record while the block runs.

        Args:
            model: The model whose paths are tapped.
            stop: End the pass after the last event; the block is left as if it had finished.
        """
        record, restore = Record({tap.text: [] for tap in self.taps}), []

        def note(tap: Tap, value: Any) -> None:
            tensors = tap.select(value)
            if tap.clone:
                tensors = [tensor.clone() for tensor in tensors]
            else:
                record.versions += [(tap.text, tensor, tensor._version) for tensor in tensors]
            record.values[tap.text] += tensors
            record.events += 1
            if stop and record.events == self.events:
                raise Stop

        try:
            for tap in self.taps:
                module = model.get_submodule(tap.path)
                restore.append((module, module.__dict__.get('forward')))
                module.forward = _tapped(module.forward, tap, note)
            with contextlib.suppress(Stop):
                yield record
        finally:
            for module, forward in reversed(restore):
                module.__dict__.pop('forward', None)
                if forward is not None:
                    module.forward = forward

    def learn(self, record: Record) -> None:
        """Remember from a dry run how many events a pass has and which values must be copied.

        Raises:
            TapError: If a tapped module was not called.
        """
        silent = [tap.text for tap in self.taps if not record[tap.text]]
        if silent:
            raise TapError(f'the {self.owner} never calls {silent[0]!r} in its forward pass; tap a module that runs '
                           '(`python tools/inspect_model.py CONFIG` shows outputs, or "not called")')
        changed = record.overwritten()
        for tap in self.taps:
            tap.clone = tap.clone or tap.text in changed
        self.events = record.events

    def verify(self, record: Record) -> None:
        """Refuse values that were overwritten in place although the dry run saw no such thing.

        Raises:
            TapError: Naming the tap.
        """
        changed = record.overwritten()
        if changed:
            raise TapError(f'the {self.owner} overwrote {sorted(changed)[0]!r} in place after it was read, so the '
                           'value is wrong; tap the module that did it instead (the next one in the forward pass)')


def _tapped(forward: Callable, tap: Tap, note: Callable[[Tap, Any], None]) -> Callable:
    """``forward``, noting what goes in or comes out."""
    @functools.wraps(forward)
    def tapped(*args: Any, **kwargs: Any) -> Any:
        if tap.inward:
            note(tap, args[0] if args else next(iter(kwargs.values()), None))
            return forward(*args, **kwargs)
        output = forward(*args, **kwargs)
        note(tap, output)
        return output
    return tapped


def _nearest(path: str, modules: dict[str, nn.Module]) -> str:
    """The end of a sentence that names the nearest module paths."""
    close = difflib.get_close_matches(path, modules, n=3, cutoff=0.5)
    if not close:
        parent = path
        while '.' in parent and parent not in modules:
            parent = parent.rpartition('.')[0]
        inside = [name for name in modules if name.rpartition('.')[0] == (parent if parent in modules else '') and name]
        close = inside[:6]
    return f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
