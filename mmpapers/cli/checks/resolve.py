"""Find the class behind ``type='X'`` as the runner would: scope first, then parents, prefixes honoured."""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine import registry as root
from mmengine.registry import DefaultScope, Registry

from .finding import nearest

SYMBOLS = tuple(name for name, value in vars(root).items() if isinstance(value, Registry))


@dataclass(frozen=True)
class Found:
    """The answer to a look-up.

    Args:
        target: Class or function; None if there is none.
        symbol: Registry that knows it, e.g. ``'MODELS'``.
        problem: Why there is none, in a sentence.
        hint: Nearest names, best first.
    """

    target: Callable | None = None
    symbol: str = ''
    problem: str = ''
    hint: tuple[str, ...] = ()


def installed(package: str) -> bool:
    """Whether a top-level package can be found."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def registry(symbol: str, scope: str) -> Registry:
    """Return the registry that serves a scope, with its modules imported; mmengine's own where the scope has none."""
    base = getattr(root, symbol)
    if installed(scope):
        importlib.import_module(f'{scope}.registry')
    found = base._search_child(scope)
    found = base if found is None else found  # an empty registry is false
    found.import_from_location()
    return found


def names(symbol: str, scope: str) -> set[str]:
    """Names that a config of this scope may write for a registry."""
    from mmpapers.registry import index
    found = set(registry(symbol, scope).module_dict) | set(getattr(root, symbol).module_dict)
    return found | {f'mmpapers.{name}' for other, name in index() if other == symbol}


@functools.cache
def _get(symbol: str, scope: str, name: str) -> tuple[Callable | None, str]:
    """Look a name up in one registry; the second value says why it failed, if for another reason than absence."""
    with DefaultScope.overwrite_default_scope(scope):
        try:
            return registry(symbol, scope).get(name), ''
        except ImportError as error:
            return None, str(error)
        except KeyError:
            return None, ''


@functools.cache
def _by_component(name: str, scope: str) -> Callable | None:
    """What a component looks up by itself: a class of ``mmcv.ops`` (RoI layers), or one of a toolbox's own registry."""
    ops = sys.modules.get('mmcv.ops')
    if ops is not None and hasattr(ops, name):
        return getattr(ops, name)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(f'{scope}.') and module_name.endswith('builder'):
            for value in vars(module).values():
                if isinstance(value, Registry) and value.parent is None and name in value.module_dict:
                    return value.module_dict[name]
    return None


def resolve(name: Any, scope: str, symbols: Sequence[str], strict: bool = False) -> Found:
    """Find what a ``type`` value names.

    Args:
        name: Value of ``type``: a name, a dotted path or a class.
        scope: The config's ``default_scope`` or the dict's ``_scope_``.
        symbols: Registries to try first, best first.
        strict: Whether no other registry would do.

    Returns:
        What was found, or the reason and the nearest names.
    """
    if callable(name):
        return Found(name, symbols[0])
    prefix = name.partition('.')[0] if '.' in name else scope
    if not installed(prefix):
        return Found(problem=f'`{name}` needs the package {prefix!r}, which is not installed')
    for symbol in symbols:
        target, problem = _get(symbol, scope, name)
        if target is not None or problem:
            return Found(target, symbol, problem and f'`{name}` cannot be imported: {problem}')
    if not strict:
        target = _by_component(name, scope) or next(filter(None, (_get(s, scope, name)[0] for s in SYMBOLS)), None)
        if target is not None:
            return Found(target, symbols[0])
    elsewhere = [s for s in SYMBOLS if s not in symbols and _get(s, scope, name)[0] is not None]
    where = ' or '.join(symbols[:2])
    text = f'`{name}` is not registered in {where} of scope {scope!r}'
    if elsewhere:
        return Found(problem=f'{text} but in {elsewhere[0]}, which is not what is built here')
    short = name.removeprefix(f'{scope}.')
    known = set().union(*(names(s, scope) for s in symbols))
    return Found(problem=text, hint=tuple([*_in_other_scopes(name, symbols), *nearest(short, known)][:3]))


def _in_other_scopes(name: str, symbols: Sequence[str]) -> list[str]:
    """The same name in another toolbox, e.g. ``mmdet.DetLocalVisualizer`` in a config of scope mmseg."""
    scopes = [s for s in ('mmpapers', 'mmdet', 'mmseg', 'mmdet3d') if installed(s)]
    return [f'{scope}.{name}' for scope in scopes for symbol in symbols
            if '.' not in name and _get(symbol, scope, f'{scope}.{name}')[0] is not None]
