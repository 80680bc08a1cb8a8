"""Point ops on CPU: wrappers of mmcv 2.1.0 that speak of CUDA before they call the ops boundary.

Why:
    1. ``furthest_point_sample`` allocates its buffers as ``torch.cuda.IntTensor`` and ``torch.cuda.FloatTensor``.
    2. ``knn``, ``points_in_boxes_part`` and ``points_in_boxes_all`` ask ``torch.cuda`` for the current device and set
       it, which torch without CUDA refuses.
The other wrappers (ball query, grouping, interpolation, ``assign_score_withk``, RoI-aware and RoI point pooling, points
in polygons, ...) allocate on the device of their input and need nothing.
Upstream: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops (furthest_point_sample.py, knn.py, points_in_boxes.py)
May go when mmcv's wrappers allocate on the device of their input.

Functions stay what they are, so names that mmcv.ops and mmdet3d imported before need no care. Each module is mended
when it is imported; nothing is imported early.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .mending import mend


def install() -> None:
    """Let the wrappers take tensors of any device; a second call does nothing."""
    mend(MENDERS)


def _sample(ctx: Any, points_xyz: Tensor, num_points: int) -> Tensor:
    """Forward pass of ``FurthestPointSampling`` with buffers on the device of the points, (B, num_points) int32."""
    from mmcv.ops.furthest_point_sample import ext_module
    b, n = points_xyz.shape[:2]
    output = points_xyz.new_empty((b, num_points), dtype=torch.int32)
    temp = points_xyz.new_full((b, n), 1e10, dtype=torch.float32)
    ext_module.furthest_point_sampling_forward(points_xyz.contiguous(), temp, output, b=b, n=n, m=num_points)
    ctx.mark_non_differentiable(output)
    return output


class _Cuda(ModuleType):
    """``torch.cuda`` whose current device can be asked for and set without CUDA: it is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    def current_device(self) -> int:
        """Return the current CUDA device, or -1, the index of CPU tensors."""
        return torch.cuda.current_device() if torch.cuda.is_available() else -1

    def set_device(self, device: int) -> None:
        """Set the current CUDA device, if there is one."""
        if torch.cuda.is_available():
            torch.cuda.set_device(device)


class _Torch(ModuleType):
    """``torch`` for one module of mmcv, with :class:`_Cuda` as ``cuda``."""

    cuda = _Cuda('torch.cuda')

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _mend_sampling(module: ModuleType) -> None:
    """``apply`` looks the forward pass up when it is called."""
    module.FurthestPointSampling.forward = staticmethod(_sample)


def _mend_device(module: ModuleType) -> None:
    """Functions look ``torch`` up in their module when they are called."""
    module.torch = _TORCH


_TORCH = _Torch('torch')
MENDERS = {
    'mmcv.ops.furthest_point_sample': _mend_sampling,
    'mmcv.ops.knn': _mend_device,
    'mmcv.ops.points_in_boxes': _mend_device,
}
