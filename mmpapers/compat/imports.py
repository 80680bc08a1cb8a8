"""Shim: stock mmdet, mmseg and mmdet3d import beside newer or absent packages.

Why:
    1. They assert upper bounds at import (``mmcv < 2.2.0``, ``mmdet < 3.4.0``) although newer versions work.
    2. mmdet3d imports dataset toolkits (nuscenes, lyft, trimesh, ...) at module level that only some components use.
    3. Some modules still say ``np.long`` or ``np.float``, which numpy 1.24 removed.
Upstream: open-mmlab/mmdetection#11763 and PR#11764, mmsegmentation#3729, mmdetection3d#2976 (unmaintained).
May go: 1 and 3 when releases without the assertions and old names are the oldest supported ones; 2 with mmdet3d.

Everything happens while the module in question is imported, through one import hook; nothing is imported early, and
the true version strings and ``sys.modules`` are back when that import has ended.
"""

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from mmpapers.compat import versions

# Package -> {requirement: (first version that it refuses, version shown to it instead)}.
ASSERTIONS = {
    'mmdet': {'mmcv': ('2.2.0', '2.1.0'), 'mmengine': ('1.0.0', '0.10.7')},
    'mmseg': {'mmcv': ('2.2.0', '2.1.0'), 'mmengine': ('1.0.0', '0.10.7')},
    'mmdet3d': {'mmcv': ('2.2.0', '2.1.0'), 'mmengine': ('1.0.0', '0.10.7'), 'mmdet': ('3.4.0', '3.3.0')},
    'mmrazor': {'mmcv': ('2.1.1', '2.1.0'), 'mmengine': ('1.0.0', '0.10.7')},
}
# Modules of mmdet3d that import, at module level, packages which most users of mmdet3d never need.
TOOLKITS = ('lyft_dataset_sdk', 'nuscenes', 'pandas', 'pyquaternion', 'trimesh')
USES_TOOLKITS = frozenset((
    'mmdet3d.datasets.convert_utils', 'mmdet3d.datasets.utils', 'mmdet3d.evaluation.functional.lyft_eval',
    'mmdet3d.evaluation.metrics.lyft_metric', 'mmdet3d.evaluation.metrics.nuscenes_metric',
    'mmdet3d.visualization.vis_utils'))
OLD_NUMPY_NAMES = frozenset((
    'mmcv.ops.pixel_group', 'mmdet.datasets.transforms.text_transformers', 'mmdet.evaluation.functional.ytviseval',
    'mmdet3d.datasets.transforms.dbsampler'))


class _Absent(type):
    """Metaclass of stand-ins: any use of the class says which package is missing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        raise ImportError(cls.__doc__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(cls.__doc__)


class _Toolkit(ModuleType):
    """Stands in for an absent package while a module of mmdet3d is imported."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        package = self.__name__.partition('.')[0]
        pip = versions.DISTRIBUTIONS.get(package, (package,))[0]
        return _Absent(name, (), {'__doc__': f'{self.__name__}.{name} is needed here, but the package {package!r} is '
                                             f'not installed: pip install {pip}'})


class _OldNumpy(ModuleType):
    """numpy with the names that it dropped in 1.24, for one module of a base toolbox."""

    def __getattr__(self, name: str) -> Any:
        import numpy
        return {'long': numpy.int64, 'float': float}.get(name) or getattr(numpy, name)


@contextlib.contextmanager
def accepted_versions(package: str) -> Iterator[None]:
    """Show ``package`` versions of its requirements that it accepts, for as long as its import runs."""
    true = {}
    for name, (refused, shown) in ASSERTIONS[package].items():
        requirement = importlib.import_module(name)
        actual = requirement.__version__
        if versions.release(actual) >= versions.release(refused):
            true[name] = actual
            requirement.__version__ = shown
    try:
        yield
    finally:
        for name, actual in true.items():
            sys.modules[name].__version__ = actual
    if true:
        warnings.warn(f'{package} {versions.version(package)} asserts older versions than '
                      f'{", ".join(f"{name} {actual}" for name, actual in true.items())}; mmpapers imported it anyway. '
                      'Should something in it fail, install the pinned stack: `python -m mmpapers.doctor`.')


@contextlib.contextmanager
def absent_toolkits(source: str) -> Iterator[None]:
    """Let ``source`` import absent toolkits; what it takes from them raises a clear error when it is used."""
    names = [name for node in ast.walk(ast.parse(source)) for name in _imported(node)]
    before = {}
    for name in names:
        package = name.partition('.')[0]
        if package in TOOLKITS and not _importable(package):
            parts = name.split('.')
            for end in range(1, len(parts) + 1):
                full = '.'.join(parts[:end])
                before.setdefault(full, sys.modules.get(full, _Toolkit))
                sys.modules[full] = _Toolkit(full)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is _Toolkit:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _imported(node: ast.AST) -> list[str]:
    """Absolute module names that an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _importable(package: str) -> bool:
    """Whether ``package`` really is there; one that is installed but broken counts as absent."""
    try:
        return not isinstance(importlib.import_module(package), _Toolkit)
    except Exception:
        return False


class ImportGuard(importlib.abc.MetaPathFinder):
    """Finds the modules named above where they are and wraps the execution of their code."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a guarded loader; None for every other name."""
        if fullname not in ASSERTIONS and fullname not in USES_TOOLKITS and fullname not in OLD_NUMPY_NAMES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec'))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            stock = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _execute(module, spec.loader, stock)
        return spec


def _execute(module: ModuleType, loader: Any, stock: Any) -> None:
    """Run the module's code under the guard that its name asks for."""
    name = module.__name__
    if name in ASSERTIONS:
        with accepted_versions(name):
            stock(module)
    elif name in USES_TOOLKITS:
        with absent_toolkits(loader.get_source(name)):
            stock(module)
    else:
        stock(module)
        if 'np' in vars(module):
            module.np = _OldNumpy('numpy')


def install() -> None:
    """Put the guard in front of the other finders; a second call changes nothing."""
    if not any(isinstance(finder, ImportGuard) for finder in sys.meta_path):
        sys.meta_path.insert(0, ImportGuard())
