"""The files of a config's inheritance chain as syntax trees: who sets what, and who reads it."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from .finding import Key

_ENVIRONMENT = re.compile(r'\{\{[\'"]?\s*\$(\w+)\s*:\s*(\S*?)\s*[\'"]?\}\}')
_BASE_VARIABLE = re.compile(r'\{\{\s*(_base_\.[\w.]+)\s*\}\}')
Statement = ast.Assign | ast.AnnAssign | ast.AugAssign


@dataclass
class ConfigSource:
    """One text config file.

    Args:
        path: The file.
        tree: Its syntax tree; empty for JSON and YAML.
        bases: Its ``_base_`` files, in order.
        loads: Names that its expressions read, ``_base_.x`` and ``{{_base_.x}}`` counted as ``x``.
        lazy: Whether it is a pure-Python config (``with read_base()``), which these checks leave alone.
    """

    path: Path
    tree: ast.Module
    bases: list['ConfigSource'] = field(default_factory=list)
    loads: frozenset[str] = frozenset()
    lazy: bool = False

    def assignments(self) -> Iterator[tuple[str, Key, Statement]]:
        """Yield ``(variable, sub key, statement)`` of every assignment, those inside ``if`` and ``for`` included.

        ``model['backbone']['depth'] = 18`` gives ``('model', ('backbone', 'depth'), ...)``, and so does
        ``_base_.model.backbone.depth = 18``.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for part in target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]:
                        key = target_key(part)
                        if key and key[0] != '_base_':
                            yield str(key[0]), key[1:], node

    def chain(self) -> list['ConfigSource']:
        """Return the bases' chains and then this file, each once: the order in which values are set."""
        files = [file for base in self.bases for file in base.chain()] + [self]
        return list({file.path: file for file in files}.values())


def target_key(node: ast.expr) -> Key | None:
    """Return the key path that ``a.b['c'][0]`` names, without a leading ``_base_``; None if it names none."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        key, part = target_key(node.value), node.attr
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key, part = target_key(node.value), node.slice.value
    else:
        return None
    if key is None:
        return None
    return (part,) if key == ('_base_',) else (*key, part)


def children(node: ast.expr) -> Iterator[tuple[str | int, ast.expr]]:
    """Yield ``(key, expression)`` of a ``dict(...)``, ``{...}``, list or tuple expression."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        yield from ((word.arg, word.value) for word in node.keywords if word.arg)
    elif isinstance(node, ast.Dict):
        yield from ((k.value, v) for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant))
    elif isinstance(node, (ast.List, ast.Tuple)):
        yield from enumerate(node.elts)


def descend(node: ast.expr, key: Key) -> tuple[ast.expr, Key]:
    """Follow ``key`` into an expression as far as it is written out; return where it ended and what is left."""
    for i, part in enumerate(key):
        below = dict(children(node))
        if part not in below:
            return node, key[i:]
        node = below[part]
    return node, ()


def names_read(node: ast.AST) -> Iterator[str]:
    """Yield the variables that an expression reads; ``_base_.x`` counts as ``x``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id != '_base_':
            yield part.id
        elif isinstance(part, (ast.Attribute, ast.Subscript)) and isinstance(part.value, ast.Name) \
                and part.value.id == '_base_':
            yield str((target_key(part) or ('',))[0])


def _text(path: Path) -> str:
    """Read a config file with mmengine's ``{{...}}`` templates turned into plain Python."""
    text = _ENVIRONMENT.sub(lambda match: match[2] or 'None', path.read_text('utf-8'))
    return _BASE_VARIABLE.sub(r'\1', text)


def _base_names(tree: ast.Module) -> list[str]:
    """Return the value of ``_base_``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
            value = eval(compile(ast.Expression(node.value), '_base_', 'eval'), {})
            return [value] if isinstance(value, str) else list(value)
    return []


@functools.lru_cache(maxsize=2048)
def _read(path: str, modified: int) -> ConfigSource:
    """Parse a file; ``modified`` (ns) keeps the cache honest."""
    file = Path(path)
    if file.suffix != '.py':
        return ConfigSource(file, ast.Module([], []))
    tree = ast.parse(_text(file), path)
    lazy = any(isinstance(node, ast.With) for node in tree.body)
    loads = frozenset(names_read(tree))
    bases = []
    for name in [] if lazy else _base_names(tree):
        bases.append(read(Config._get_cfg_path(name, path)[0]))
    return ConfigSource(file, tree, bases, loads, lazy)


def read(path: str | Path) -> ConfigSource:
    """Parse a config file and all its bases.

    Raises:
        FileNotFoundError: If a file of the chain is missing.
        SyntaxError: If one is not Python.
    """
    path = Path(path).expanduser().resolve()
    return _read(str(path), path.stat().st_mtime_ns)
