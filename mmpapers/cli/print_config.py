"""``tools/print_config.py``: the resolved config, or which file and line set one of its values."""

import argparse
import ast
import contextlib
import os
import pprint
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmpapers import compat
from mmpapers.distill.overlay import expand

from . import runtime
from .check import add_config_arguments
from .checks.finding import Key, dotted, lookup, nearest, walk
from .checks.source import ConfigSource, descend, read, target_key

_ABSENT = object()


@dataclass(frozen=True)
class Step:
    """One place that set or changed a value.

    Args:
        place: ``'file:line'``, or ``'--cfg-options'``.
        code: The source line.
        value: The value after the file was merged.
    """

    place: str
    code: str
    value: Any


def explain(path: str, key: Key, options: dict | None = None) -> list[Step]:
    """List the places that set a value, in the order in which they take effect.

    Args:
        path: Config file.
        key: Key path, e.g. ``('model', 'backbone', 'depth')``.
        options: Parsed ``--cfg-options``.

    Returns:
        One step for each assignment of the inheritance chain that sets the value, a part of it or a dict around it.
    """
    steps = []
    for file in read(path).chain():
        if file.path.suffix != '.py':
            continue
        value = _value(_load(file.path), key)
        for line, code in _setters(file, key):
            steps.append(Step(f'{os.path.relpath(file.path)}:{line}', code, value))
    cfg = Config(ConfigDict(_load(Path(path))))
    for name in options or {}:
        parts = _parts(name)
        shared = min(len(parts), len(key))
        if parts[:shared] == key[:shared]:
            cfg.merge_from_dict({name: options[name]})
            steps.append(Step('--cfg-options', f'{name}={options[name]}', _value(cfg._cfg_dict, key)))
    return steps


def _load(path: Path) -> ConfigDict:
    """Resolve a file of the chain; one that needs what only its heirs define is read as empty."""
    try:
        return Config.fromfile(path, import_custom_modules=False)._cfg_dict
    except Exception:  # the whole config was read before, so this is a fragment
        return ConfigDict()


def _value(cfg: dict, key: Key) -> Any:
    """Value at a key, or a marker that there is none."""
    try:
        return lookup(cfg, key)
    except KeyError:
        return _ABSENT


def _parts(name: str) -> Key:
    """Split ``a.0.b`` into a key path."""
    return tuple(int(part) if part.lstrip('-').isdigit() else part for part in name.split('.'))


def _setters(file: ConfigSource, key: Key, seen: frozenset[Key] = frozenset()) -> Iterator[tuple[int, str]]:
    """Yield ``(line, code)`` of a file's assignments that decide about a key, through variables too."""
    lines = file.path.read_text('utf-8').splitlines()
    for variable, below, node in _assignments(file):
        target = (variable, *below)
        shared = min(len(target), len(key))
        if target[:shared] != key[:shared] or node.value is None:
            continue
        found, rest = descend(node.value, key[len(target):])
        if rest and _is_written_out(found) and not _deletes(found):
            continue  # the dict is there, but does not name the key
        code = lines[found.lineno - 1].strip()
        source = target_key(found)
        if source and isinstance(found, ast.Name) and (*source, *rest) not in seen:
            yield from _setters(file, (*source, *rest), seen | {key})
        yield found.lineno, code


def _assignments(file: ConfigSource) -> list[tuple[str, Key, Any]]:
    """Assignments in the order of the file."""
    return sorted(file.assignments(), key=lambda row: row[2].lineno)


def _is_written_out(node: ast.expr) -> bool:
    """Whether an expression shows its keys."""
    return isinstance(node, (ast.Dict, ast.List, ast.Tuple, ast.Constant)) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'
        and all(word.arg for word in node.keywords))


def _deletes(node: ast.expr) -> bool:
    """Whether a dict expression has ``_delete_=True``."""
    end, rest = descend(node, ('_delete_',))
    return not rest and isinstance(end, ast.Constant) and end.value is True


def short(value: Any, width: int = 100) -> str:
    """Write a value in one line."""
    if value is _ABSENT:
        return '(not set)'
    text = ' '.join(pprint.pformat(_plain(value), width=10 ** 6, sort_dicts=False).split())
    return text if len(text) <= width else f'{text[:width - 4]} ...'


def _plain(value: Any) -> Any:
    """Turn ConfigDicts into dicts."""
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in value}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _unknown(cfg: Config, name: str) -> runtime.UserError:
    """The error for a key that does not exist."""
    keys = [dotted(key) for key, _ in walk(cfg._cfg_dict) if key]
    last = name.rpartition('.')[2]
    close = [key for key in keys if key.rpartition('.')[2] == last][:5] or nearest(name, keys, n=3)
    return runtime.UserError(f'the config has no key {name!r}'
                             + (f'; did you mean {" or ".join(close)}?' if close else ''))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the config, or explain keys of it.

    Returns:
        0, or 2 if the config cannot be read or has no such key.
    """
    parser = argparse.ArgumentParser('print_config', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--explain', nargs='+', metavar='KEY', default=[],
                        help='show who set a value, e.g. model.backbone.depth or train_dataloader.dataset.pipeline.2')
    parser.add_argument('--expand', action='store_true',
                        help='write the overlay `distill` as the model that it stands for')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    cfg = runtime.read_config(args.config, args.cfg_options)
    if args.expand:
        expand(cfg)
    if not args.explain:
        print(cfg.pretty_text)
        return 0
    for name in args.explain:
        key = _parts(name)
        if _value(cfg._cfg_dict, key) is _ABSENT:
            raise _unknown(cfg, name)
        print(f'{name} = {short(lookup(cfg._cfg_dict, key))}')
        with contextlib.suppress(BrokenPipeError):
            for step in explain(cfg.filename or args.config, key, args.cfg_options):
                print(f'  {step.place}\n      {step.code}\n      -> {short(step.value)}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
