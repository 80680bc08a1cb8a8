"""Mend modules of other packages when they are imported, without importing them early."""

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

Mender = Callable[[ModuleType], None]


def mend(menders: Mapping[str, Mender]) -> None:
    """Mend what is imported already, and the rest when it is imported; a second call changes nothing.

    Args:
        menders: Name of a module -> function that mends it; mending twice must do no harm.
    """
    for name, mender in menders.items():
        if name in sys.modules:
            mender(sys.modules[name])
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if finder is None:
        sys.meta_path.insert(0, finder := _Finder())
    for name, mender in menders.items():
        finder.menders.setdefault(name, {})[mender] = None


def wrap(owner: ModuleType | type, name: str, wrapper: Callable[[Callable], Callable]) -> None:
    """Put ``wrapper(stock)`` in the place of a function of a module or class, once.

    Args:
        owner: Module or class.
        name: Name of the function.
        wrapper: Takes the stock function and returns the mended one.
    """
    stock = getattr(owner, name)
    if not getattr(stock, 'mended', False):
        mended = functools.wraps(stock)(wrapper(stock))
        mended.mended = True
        setattr(owner, name, mended)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules where they are and mends them after their own code has run."""

    def __init__(self) -> None:
        self.menders: dict[str, dict[Mender, None]] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a loader that mends afterwards; None for every other name."""
        menders = self.menders.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if menders else None
        if spec is not None and spec.loader is not None:
            stock = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                stock(module)
                for mender in menders:
                    mender(module)

            spec.loader.exec_module = exec_module
        return spec
