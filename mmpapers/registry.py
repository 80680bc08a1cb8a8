"""Lazy registry nodes of scope ``mmpapers``. Imports mmengine and nothing else.

mmengine imports this module by itself when a config says ``type='mmpapers.X'``; no ``custom_imports`` is needed. An
index of the sources says which module registers a class, and only that module is imported when the class is asked for.
"""

import difflib
import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path

from mmengine import registry as _root

_REGISTERED = re.compile(r'^@(\w+)\.register_module\([^)]*\)\s*\n(?:@.*\n)*class (\w+)', re.M)
_SCOPE = 'mmpapers'

Index = dict[tuple[str, str], str]


def scan() -> list[tuple[str, str, str]]:
    """Read the sources and list every registered class without importing it.

    Returns:
        Rows ``(registry, class name, module)``, e.g. ``('MODELS', 'TTFNet', 'mmpapers.projects.ttfnet.ttfnet')``.
    """
    import mmpapers
    import mmpapers.projects
    rows = []
    for package in (mmpapers, mmpapers.projects):
        for root in map(Path, package.__path__):
            for file in sorted(root.rglob('*.py')):
                parts = file.relative_to(root).with_suffix('').parts
                if 'configs' in parts or (package is mmpapers and parts[0] == 'projects'):
                    continue
                text = file.read_text('utf-8')
                if '.register_module(' not in text:
                    continue
                module = '.'.join([package.__name__, *(p for p in parts if p != '__init__')])
                rows += [(symbol, name, module) for symbol, name in _REGISTERED.findall(text)]
    return rows


@functools.cache
def index() -> Index:
    """Map ``(registry, class name)`` to the module that defines it; the first of two duplicates wins.

    That names are unique is a contract test of the repository, so a user's private duplicate never stops a run.
    """
    found: Index = {}
    for symbol, name, module in scan():
        found.setdefault((symbol, name), module)
    return found


def load(symbol: str, name: str) -> type:
    """Import and return the class ``name`` of registry ``symbol``.

    Raises:
        KeyError: If no source registers it; the message names the nearest ones.
        ImportError: If its module needs a package that is absent; the message names both.
    """
    module = index().get((symbol, name))
    if module is None:
        raise KeyError(_unknown(symbol, name))
    _supply_ops()
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] == _SCOPE:
            raise
        raise ImportError(f'mmpapers.{name} needs the package {error.name!r}, which is not installed '
                          f'(asked for by {module}). `python -m mmpapers.doctor` prints the line that installs it.'
                          ) from error


def _supply_ops() -> None:
    """With mmcv-lite no module of mmdet can be imported: it has no ``mmcv._ext``. Supply ours before one tries."""
    if 'mmcv._ext' in sys.modules:
        return
    try:
        absent = importlib.util.find_spec('mmcv') is not None and importlib.util.find_spec('mmcv._ext') is None
    except (ImportError, ValueError):
        return  # no mmcv, or one that cannot be imported: the component that needs it says so
    if absent:
        importlib.import_module('mmpapers.ops.boundary').install()


def _unknown(symbol: str, name: str) -> str:
    """Say that a name does not exist and what it could have been."""
    names = sorted({n for s, n in index() if s == symbol})
    close = difflib.get_close_matches(name, names, cutoff=0.6)
    close = close or [n for n in names if n.lower() == name.lower()]
    elsewhere = [s for s, n in index() if n == name and s != symbol]
    text = f'mmpapers.{name} does not exist in the registry {symbol}'
    if elsewhere:
        return f'{text}; it is registered in {" and ".join(elsewhere)}'
    if close:
        return f'{text}; did you mean {" or ".join("mmpapers." + n for n in close)}?'
    return f'{text}. Components: `python -m mmpapers.doctor --components`'


class LazyRegistry(_root.Registry):
    """A registry that imports the module of a class when the class is asked for.

    Args:
        symbol: Name of the root registry in ``mmengine.registry``, e.g. ``'MODELS'``.
    """

    def __init__(self, symbol: str) -> None:
        parent = getattr(_root, symbol)
        super().__init__(parent.name, parent=parent, scope=_SCOPE)
        self.symbol = symbol

    def import_from_location(self) -> None:
        """Import nothing; :meth:`get` imports what it needs."""

    def get(self, key: str) -> type | None:
        """Return the class ``key`` (with or without the ``mmpapers.`` prefix).

        Raises:
            KeyError: If ``key`` is one of ours by prefix and unknown, with the nearest names.
            ImportError: If the class needs an absent package.
        """
        name = key.removeprefix(f'{_SCOPE}.')
        if name in self.module_dict:
            return self.module_dict[name]
        if (self.symbol, name) in index():
            return load(self.symbol, name)
        # The root registry strips the prefix before it asks us, so a bare name reaches this line for both
        # 'mmpapers.X' (asked by the root) and an unprefixed foreign 'X' (asked by a component of ours).
        if key != name or _asked_by_root():
            raise KeyError(_unknown(self.symbol, name))
        return super().get(key)


def _asked_by_root() -> bool:
    """Whether another registry passed the lookup on to us after stripping our scope."""
    caller = sys._getframe(2)
    return caller.f_code.co_name == 'get' and caller.f_globals.get('__name__') == 'mmengine.registry.registry'


_symbols = [name for name, value in vars(_root).items() if isinstance(value, _root.Registry)]
for _symbol in _symbols:
    globals()[_symbol] = LazyRegistry(_symbol)

__all__ = ['LazyRegistry', 'index', 'load', 'scan', *_symbols]
