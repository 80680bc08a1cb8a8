"""Shim: mmdet3d's KITTI evaluation (``KittiMetric``) runs without CUDA.

Why: mmdet3d 1.4.0 computes overlaps of rotated boxes with kernels of ``numba.cuda``, which are compiled as soon as
``rotate_iou`` is imported; without a CUDA driver that numba can use, validation on KITTI ends with an error.
Upstream: open-mmlab/mmdetection3d#2817, PR#2882 (unmaintained).
May go when mmdet3d has a CPU path.

Only that one module is supplied, and only where numba finds no CUDA; mmdet3d's own matching and averaging stay.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np

_KERNELS = 'mmdet3d.evaluation.functional.kitti_utils.rotate_iou'


def rotate_iou_gpu_eval(boxes: np.ndarray, query_boxes: np.ndarray, criterion: int = -1, device_id: int = 0
                        ) -> np.ndarray:
    """Overlap of rotated boxes on the CPU, under mmdet3d's name and arguments.

    Args:
        boxes: (N, 5) x, z, length, width, yaw in camera coordinates.
        query_boxes: (K, 5) likewise.
        criterion: Divisor: -1 the union, 0 the query's area, 1 the box's area, 2 none.
        device_id: Without meaning here.

    Returns:
        (N, K) float32.
    """
    from mmpapers.evaluation.kitti_overlap import rotated_overlap
    return rotated_overlap(boxes, query_boxes, criterion).astype(np.float32)


def cuda_available() -> bool:
    """Whether numba can compile for CUDA here (its simulator counts)."""
    try:
        from numba import cuda
        return bool(cuda.is_available())
    except Exception:  # numba raises many kinds for a broken driver
        return False


class _Supply(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the one module where numba has no CUDA."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
                  ) -> importlib.machinery.ModuleSpec | None:
        """Return our spec for mmdet3d's CUDA kernels; None for other names, and where CUDA is there."""
        if fullname != _KERNELS or cuda_available():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its function."""
        module.rotate_iou_gpu_eval = rotate_iou_gpu_eval


def install() -> None:
    """Put the finder in front of the others; a second call changes nothing."""
    if not any(isinstance(finder, _Supply) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Supply())
