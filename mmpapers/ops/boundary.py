"""The boundary: what ``mmcv.ops`` calls in ``mmcv._ext``, and who answers.

``mmcv.ops`` reaches its compiled kernels through one module, ``mmcv._ext``. :func:`install` puts a facade in its place
that sends each call to the compiled kernel where the installed mmcv has one for the tensors' device, and to the
function of the same name and signature in :mod:`mmpapers.ops` where not. Importing never fails for a missing op:
calling one raises a sentence that names the op, the device and what to install.
"""

import functools
import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

# Module of mmpapers.ops -> functions of mmcv._ext that it defines, with mmcv's names and signatures.
IMPLEMENTED = {
    'nms': ('nms', 'softnms', 'nms_match'),
    'roi_align': ('roi_align_forward', 'roi_align_backward'),
    'roi_pool': ('roi_pool_forward', 'roi_pool_backward'),
    'prroi_pool': ('prroi_pool_forward', 'prroi_pool_backward', 'prroi_pool_coor_backward'),
    'bbox_overlaps': ('bbox_overlaps',),
    'focal_loss': ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward', 'softmax_focal_loss_forward',
                   'softmax_focal_loss_backward'),
    'deform_conv': ('deform_conv_forward', 'deform_conv_backward_input', 'deform_conv_backward_parameters',
                    'modulated_deform_conv_forward', 'modulated_deform_conv_backward'),
    'deform_roi_pool': ('deform_roi_pool_forward', 'deform_roi_pool_backward'),
    'ms_deform_attn': ('ms_deform_attn_forward', 'ms_deform_attn_backward'),
    'masked_conv': ('masked_im2col_forward', 'masked_col2im_forward'),
    'carafe': ('carafe_forward', 'carafe_backward', 'carafe_naive_forward', 'carafe_naive_backward'),
    'psa_mask': ('psamask_forward', 'psamask_backward'),
    'info': ('get_compiler_version', 'get_compiling_cuda_version'),
}
_MODULE_OF = {name: module for module, names in IMPLEMENTED.items() for name in names}

# Functions of a compiled mmcv 2.1.0 that have a kernel for CPU tensors; the others exist there but raise when called.
COMPILED_ON_CPU = frozenset((
    'active_rotated_filter_forward', 'active_rotated_filter_backward', 'bbox_overlaps', 'bezier_align_forward',
    'bezier_align_backward', 'box_iou_quadri', 'box_iou_rotated', 'contour_expand', 'deform_conv_forward',
    'deform_conv_backward_input', 'deform_conv_backward_parameters', 'dynamic_voxelize_forward',
    'get_compiler_version', 'get_compiling_cuda_version', 'modulated_deform_conv_forward',
    'modulated_deform_conv_backward', 'nms', 'nms_match', 'nms_quadri', 'nms_rotated', 'pixel_group',
    'points_in_boxes_cpu_forward', 'psamask_forward', 'psamask_backward', 'roi_align_forward', 'roi_align_backward',
    'roi_align_rotated_forward', 'roi_align_rotated_backward', 'rotated_feature_align_forward',
    'rotated_feature_align_backward', 'softnms'))


class MissingOpError(NotImplementedError):
    """An op that neither the installed mmcv nor mmpapers implements for a device."""


def implementation(name: str) -> Callable | None:
    """Return mmpapers' function for ``mmcv._ext.<name>``, or None if there is none."""
    module = _MODULE_OF.get(name)
    return module and getattr(importlib.import_module(f'mmpapers.ops.{module}'), name)


class ExtFacade(ModuleType):
    """Stands in for ``mmcv._ext``; has every attribute that is asked for, so that importing ``mmcv.ops`` succeeds.

    Args:
        compiled: The real ``mmcv._ext``, or None with mmcv-lite.
    """

    def __init__(self, compiled: ModuleType | None = None) -> None:
        super().__init__('mmcv._ext', __doc__)
        self.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)
        self.compiled = compiled

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        function = functools.partial(self._call, name)
        setattr(self, name, function)
        return function

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run ``name`` where it can run for the device of its tensors."""
        device = _device(args, kwargs)
        if self._has_compiled(name, device):
            return getattr(self.compiled, name)(*args, **kwargs)
        function = implementation(name)
        if function is not None:
            return function(*args, **kwargs)
        raise MissingOpError(
            f'mmcv op {name!r} has no implementation for {device} tensors: mmpapers.ops does not provide it and '
            + ('the installed mmcv was compiled without it. ' if self.compiled else 'mmcv-lite has no compiled ops. ')
            + 'Install a compiled mmcv==2.1.0 (`make compiled`, or a CUDA build) in place of mmcv-lite.')

    def _has_compiled(self, name: str, device: str) -> bool:
        """Whether the installed mmcv has a kernel for this op and device."""
        if self.compiled is None or not hasattr(self.compiled, name):
            return False
        if device == 'cpu':
            return name in COMPILED_ON_CPU
        return device == 'cuda' and self.compiled.get_compiling_cuda_version() != 'not available'


def _device(args: tuple, kwargs: dict) -> str:
    """Device type of the first tensor among the arguments; 'cpu' if there is none."""
    tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
    return next((t.device.type for t in tensors), 'cpu')


def install() -> ExtFacade:
    """Put the facade in the place of ``mmcv._ext``; a second call changes nothing.

    Returns:
        The facade.
    """
    present = sys.modules.get('mmcv._ext')
    if isinstance(present, ExtFacade):
        return present
    try:
        compiled = importlib.import_module('mmcv._ext')
    except ModuleNotFoundError:
        compiled = None
    facade = sys.modules['mmcv._ext'] = ExtFacade(compiled)
    importlib.import_module('mmcv')._ext = facade
    return facade
