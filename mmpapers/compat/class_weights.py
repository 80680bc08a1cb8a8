"""Weighted cross entropy of mmseg on maps with ignored pixels.

Why: mmseg 1.2.2's ``cross_entropy`` looks up the class weight of every label for its average, the ignored 255 too, and
stops with an IndexError (a device assertion on CUDA). PIDNet, DDRNet and other Cityscapes configs with ``class_weight``
cannot be trained on real labels.
Upstream: https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/models/losses/cross_entropy_loss.py
May go when the lookup leaves ignored labels out.

Ignored pixels count 0 in the average with ``avg_non_ignore=True`` and 1 without, as in the unweighted loss.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from torch import Tensor

_MODULE = 'mmseg.models.losses.cross_entropy_loss'


def install() -> None:
    """Replace mmseg's function now or when its module is imported; a second call does nothing."""
    if _MODULE in sys.modules:
        _patch(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _patch(module: ModuleType) -> None:
    if not hasattr(module.cross_entropy, '__wrapped__'):
        module.cross_entropy = _with_ignored(module.cross_entropy)


def _with_ignored(original: Callable) -> Callable:
    """Give ``original`` the average factor that it cannot compute."""

    @functools.wraps(original)
    def cross_entropy(pred: Tensor, label: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None,
                      reduction: str = 'mean', avg_factor: float | Tensor | None = None, ignore_index: int = -100,
                      avg_non_ignore: bool = False) -> Tensor:
        if avg_factor is None and reduction == 'mean' and class_weight is not None:
            ignored = label == ignore_index
            weights = class_weight[label.masked_fill(ignored, 0)]
            avg_factor = weights.masked_fill(ignored, 0 if avg_non_ignore else 1).sum()
        return original(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)

    return cross_entropy


class _Finder(importlib.abc.MetaPathFinder):
    """Patches the module when it is imported, so that mmseg is not imported early."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a loader that patches afterwards; None for every other name."""
        if fullname != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            stock = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                stock(module)
                _patch(module)

            spec.loader.exec_module = exec_module
        return spec
