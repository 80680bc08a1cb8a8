"""Version facts, read from the installed distributions and never by importing them.

Forks keep the import name and change the distribution's (``mmengine`` is installed by ``mmengine`` or
``onedl-mmengine``) and some modules lack ``__version__`` or ``version_info``, so ``importlib.metadata`` is the one
source that is right for all of them.
"""

import functools
import importlib.metadata
import re

# Import name -> distributions that install it, the usual one first.
DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmdet3d': ('mmdet3d',),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmrazor': ('mmrazor',),
    'cv2': ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless'),
    'spconv': ('spconv', 'spconv-cu118', 'spconv-cu120', 'spconv-cu121', 'spconv-cu124', 'spconv-cu126'),
    'PIL': ('pillow',),
    'nuscenes': ('nuscenes-devkit',),
    'lyft_dataset_sdk': ('lyft-dataset-sdk',),
    'sklearn': ('scikit-learn',),
    'skimage': ('scikit-image',),
    'yaml': ('PyYAML',),
}


def owners(module: str) -> dict[str, str]:
    """List the installed distributions that provide an import name.

    Args:
        module: Top-level import name, e.g. ``'mmcv'``.

    Returns:
        Distribution name -> version; more than one entry for OpenMMLab packages means that one was written over
        the other.
    """
    found = {}
    for name in DISTRIBUTIONS.get(module, (module,)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version(module: str) -> str | None:
    """Return the version of the distribution that provides ``module``, or None if there is none."""
    return next(iter(owners(module).values()), None)


@functools.cache
def release(text: str) -> tuple[int, ...]:
    """Numbers of a version string, for comparison: ``'2.13.0+cpu'`` -> ``(2, 13, 0)``."""
    head = re.match(r'\d+(?:\.\d+)*', text)
    return tuple(map(int, head.group().split('.'))) if head else ()
