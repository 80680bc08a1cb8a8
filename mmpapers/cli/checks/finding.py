"""What a check reports, and small helpers that all checks share."""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmpapers.config_tree import Key, walk

__all__ = ['Finding', 'Key', 'assignment', 'did_you_mean', 'dotted', 'lookup', 'nearest', 'walk']


@dataclass(frozen=True)
class Finding:
    """One mistake or remark about a config.

    Args:
        level: ``'error'`` stops a run before anything is built; ``'warning'`` and ``'info'`` do not.
        where: Key of the config, e.g. ``'model.bbox_head.num_classes'``.
        message: One sentence that says what is wrong.
        fix: The config line to change, or what to do; empty for a plain remark.
    """

    level: Literal['error', 'warning', 'info']
    where: str
    message: str
    fix: str = ''

    def as_dict(self) -> dict[str, str]:
        """Return the finding for a JSON report."""
        return asdict(self)


def dotted(key: Key) -> str:
    """Write a key path as ``--cfg-options`` wants it, e.g. ``'param_scheduler.0.gamma'``."""
    return '.'.join(map(str, key))


def assignment(key: Key, value: str) -> str:
    """Write the config line that sets ``key``: ``a = dict(b=dict(c=value))``.

    A list index cannot be merged in a config file, so such keys become ``a.0.b=value`` for ``--cfg-options``.
    """
    if any(isinstance(part, int) for part in key[1:]):
        return f'{dotted(key)}={value}'
    for part in reversed(key[1:]):
        value = f'dict({part}={value})'
    return f'{key[0]} = {value}'


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6, n: int = 3) -> list[str]:
    """Return up to ``n`` of ``words`` that look like ``word``; equal up to case comes first."""
    words = sorted(set(words))
    same = [w for w in words if w.lower() == word.lower()]
    return (same + [w for w in difflib.get_close_matches(word, words, n, cutoff) if w not in same])[:n]


def did_you_mean(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``'; did you mean `x` or `y`?'``, or nothing if no word is near."""
    close = nearest(word, words, cutoff)
    return '; did you mean ' + ' or '.join(f'`{w}`' for w in close) + '?' if close else ''


def lookup(value: Any, key: Key) -> Any:
    """Return the value at a key path.

    Raises:
        KeyError: If the path does not exist.
    """
    for part in key:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            raise KeyError(dotted(key)) from None
    return value
