"""Walk over nested config values."""

from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]


def walk(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every ``(key path, value)`` of a nested config value, parents before children."""
    yield key, value
    if isinstance(value, dict):
        for name in list(value.keys()):
            yield from walk(value[name], (*key, name))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from walk(item, (*key, i))
