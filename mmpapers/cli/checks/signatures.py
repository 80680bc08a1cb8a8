"""Which arguments a class takes, with ``**kwargs`` followed through ``super().__init__`` and other calls."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """Arguments of a class or function.

    Args:
        names: Arguments it takes by keyword, in order.
        required: Those without a default.
        open: Whether it takes any other keyword too, so that nothing can be called unknown.
    """

    names: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    open: bool = False

    def without(self, passed: set[str]) -> 'Signature':
        """Leave out arguments that a caller passes itself."""
        return Signature(tuple(n for n in self.names if n not in passed), self.required - passed, self.open)

    def __or__(self, other: 'Signature') -> 'Signature':
        return Signature(tuple(dict.fromkeys(self.names + other.names)), self.required | other.required,
                         self.open or other.open)


OPEN = Signature(open=True)


@functools.cache
def signature(target: Callable) -> Signature:
    """Return what a class or function takes by keyword.

    Args:
        target: A class, whose ``__init__`` is followed through its MRO, or a function.
    """
    if not inspect.isclass(target):
        return _of_function(target, None, ())
    return _of_init(target, target.__mro__)


@functools.cache
def words(target: Callable) -> frozenset[str]:
    """Return the strings in the source of a class and its parents.

    A component that takes a key out of a child's dict before it builds the child names that key somewhere.
    """
    found: set[str] = set()
    for part in target.__mro__ if inspect.isclass(target) else (target,):
        if part.__module__.partition('.')[0] in ('torch', 'builtins', 'abc', 'mmengine'):
            continue
        tree = _tree(part)
        found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
                  and isinstance(node.value, str)} if tree else set()
    return frozenset(found)


def _tree(part: Callable) -> ast.Module | None:
    """Syntax tree of a class or function, None where there is no Python source."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(part)))
    except (OSError, TypeError, SyntaxError):
        return None


def _stands_in(owner: type) -> bool:
    """Whether a class derives from object only because the package of its real parent is absent."""
    tree = _tree(owner) if owner.__bases__ == (object,) else None
    return bool(tree) and any(getattr(base, 'id', None) != 'object' for base in tree.body[0].bases)


def _of_init(cls: type, mro: tuple[type, ...]) -> Signature:
    """Signature of the first ``__init__`` in the rest of an MRO."""
    for i, owner in enumerate(mro):
        if owner in (nn.Module, object):
            return OPEN if cls.__new__ is not object.__new__ or _stands_in(cls) else Signature()
        if '__init__' in vars(owner):
            return _of_function(vars(owner)['__init__'], cls, mro[i + 1:], method=True)
    return OPEN


def _of_function(function: Callable, cls: type | None, rest: tuple[type, ...], method: bool = False) -> Signature:
    """Signature of one function; ``rest`` is the MRO behind it."""
    renamed = _renamed(function)
    function = inspect.unwrap(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if method else 0:]
    except (TypeError, ValueError):
        return OPEN
    kwargs = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
    plain = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    own = Signature((*(p.name for p in plain), *renamed),
                    frozenset(p.name for p in plain if p.default is p.empty) - set(renamed.values()))
    if kwargs is None:
        return own
    behind = _behind(function, kwargs, cls, rest)
    return own | behind.without({p.name for p in plain})


def _renamed(function: Callable) -> dict[str, str]:
    """Old argument names that mmengine's ``deprecated_api_warning`` still takes, mapped to the new ones."""
    found = {}
    while hasattr(function, '__wrapped__'):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
        if 'name_dict' in cells:
            found.update(cells['name_dict'].cell_contents)
        function = function.__wrapped__
    return found


def _behind(function: Callable, kwargs: str, cls: type | None, rest: tuple[type, ...]) -> Signature:
    """What ``**kwargs`` of a function may hold, read from what the function does with it."""
    tree = _tree(function)
    if tree is None:
        return OPEN
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == kwargs]
    if not uses:
        return OPEN
    total, touched = Signature(), set()
    for use in uses:
        parent = parents[use]
        if isinstance(parent, ast.keyword) and parent.arg is None:
            total = total | _of_call(parents[parent], function, cls, rest)
            continue
        names = _constants(use, parent, parents)
        if names is None:
            return OPEN
        touched |= names
    return Signature((*total.names, *sorted(touched)), total.required - touched, total.open)


def _constants(use: ast.Name, parent: ast.AST, parents: dict[ast.AST, ast.AST]) -> set[str] | None:
    """Keys named by ``kwargs['x']``, ``kwargs.pop('x')``, ``'x' in kwargs``, ...; None if anything could be meant."""
    if isinstance(parent, ast.Subscript) and parent.value is use:
        return _strings(parent.slice)
    if isinstance(parent, ast.Compare) and isinstance(parent.ops[0], (ast.In, ast.NotIn)):
        return _strings(parent.left)
    if isinstance(parent, ast.Attribute) and parent.attr in ('pop', 'get', 'setdefault', 'update', 'copy'):
        call = parents[parent]
        if isinstance(call, ast.Call) and call.func is parent:
            if parent.attr == 'update':
                return {word.arg for word in call.keywords if word.arg} if not call.args else None
            return _strings(call.args[0]) if call.args else None
    if isinstance(parent, (ast.BoolOp, ast.If, ast.UnaryOp)):
        return set()
    return None


def _strings(node: ast.expr) -> set[str] | None:
    """The string that an expression is, as a set."""
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _of_call(call: ast.AST, function: Callable, cls: type | None, rest: tuple[type, ...]) -> Signature:
    """What a call ``f(a, b=1, **kwargs)`` lets through: f's arguments but those that it is given here."""
    if not isinstance(call, ast.Call):
        return OPEN
    callee = call.func
    skip = 0
    if isinstance(callee, ast.Attribute) and callee.attr == '__init__':
        owner = callee.value
        if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == 'super':
            mro = rest
            if owner.args:
                start = _evaluate(owner.args[0], function)
                mro = cls.__mro__[cls.__mro__.index(start) + 1:] if cls and start in cls.__mro__ else None
        else:
            start, skip = _evaluate(owner, function), 1
            mro = start.__mro__ if inspect.isclass(start) else None
        below = OPEN if mro is None or cls is None else _of_init(cls, mro)
    else:
        target = _evaluate(callee, function)
        below = signature(target) if inspect.isclass(target) or inspect.isfunction(target) else OPEN
    positional = call.args[skip:]
    count = next((i for i, arg in enumerate(positional) if isinstance(arg, ast.Starred)), len(positional))
    return below.without({*below.names[:count], *(word.arg for word in call.keywords if word.arg)})


def _evaluate(node: ast.expr, function: Callable) -> Any:
    """The global object that ``a.b`` names inside a function, or None."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _evaluate(node.value, function)
        return getattr(owner, node.attr, None) if inspect.isclass(owner) or isinstance(owner, ModuleType) else None
    return None
