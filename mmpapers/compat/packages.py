"""Shim: mmengine finds installed packages without ``pkg_resources``.

Why: mmengine 0.10.7 looks packages up through ``pkg_resources``, which setuptools 82 removed; every
``_base_ = 'mmdet::...'`` and ``mmengine.hub.get_model`` fails with ``No module named 'pkg_resources'``. Besides, it
asks for the upstream distribution (``mmsegmentation``), so ``_base_ = 'mmseg::...'`` fails when a fork provides it.
Upstream: open-mmlab/mmcv PR#3326 (same cause); VBTI-development/onedl-mmengine uses importlib.metadata since 0.10.10.
May go: when no supported mmengine imports pkg_resources and forks are found by their import name.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from mmpapers.compat import versions

_MODULE_OF = {dist: module for module, dists in versions.DISTRIBUTIONS.items() for dist in dists}


def module_of(package: str) -> str:
    """Import name of a distribution or package name: ``'mmsegmentation'`` -> ``'mmseg'``."""
    if package in _MODULE_OF:
        return _MODULE_OF[package]
    try:
        names = importlib.metadata.distribution(package).read_text('top_level.txt')
    except importlib.metadata.PackageNotFoundError:
        names = None
    return names.split()[0] if names and names.split() else package


def _spec(package: str) -> importlib.machinery.ModuleSpec | None:
    """Find the module without importing it; None for absent names and namespace packages."""
    try:
        spec = importlib.util.find_spec(module_of(package))
    except (ImportError, ValueError):
        return None
    return spec if spec is not None and spec.origin else None


def is_installed(package: str) -> bool:
    """Whether ``package`` (a distribution or import name) can be imported or has installed metadata."""
    if _spec(package) is not None:
        return True
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def get_installed_path(package: str) -> str:
    """Return the folder of an installed package.

    Raises:
        ModuleNotFoundError: If nothing installed provides it.
    """
    spec = _spec(package)
    if spec is None:
        raise ModuleNotFoundError(f'{package} is not installed; `python -m mmpapers.doctor` prints the line that '
                                  'installs it', name=module_of(package))
    return str(Path(spec.origin).parent)


def install() -> None:
    """Replace mmengine's two look-ups wherever they were already imported by name."""
    from mmengine.utils import package_utils
    ours = {'is_installed': is_installed, 'get_installed_path': get_installed_path, 'package2module': module_of}
    stock = {name: getattr(package_utils, name) for name in ours}
    for name, module in list(sys.modules.items()):
        if module is None or name.partition('.')[0] != 'mmengine':
            continue
        for attribute, function in ours.items():
            if vars(module).get(attribute) is stock[attribute]:
                setattr(module, attribute, function)
