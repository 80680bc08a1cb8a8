"""The boundary: what ``mmcv.ops`` calls in ``mmcv._ext``, and who answers.

``mmcv.ops`` reaches its compiled kernels through one module, ``mmcv._ext``. :func:`install` puts a facade in its place
that sends each call to the compiled kernel where the installed mmcv has one for the tensors' device, and to the
function of the same name and signature in :mod:`mmpapers.ops` where not. Importing never fails for a missing op:
calling one raises a sentence that names the op, the device and what to install.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
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
    'voxelize': ('hard_voxelize_forward', 'dynamic_voxelize_forward'),
    'scatter_points': ('dynamic_point_to_voxel_forward', 'dynamic_point_to_voxel_backward'),
    'sparse_conv': ('indice_conv_forward', 'indice_conv_backward', 'fused_indice_conv_forward',
                    'indice_maxpool_forward', 'indice_maxpool_backward'),
    'sparse_conv_pairs': ('get_indice_pairs_2d_forward', 'get_indice_pairs_3d_forward', 'get_indice_pairs_4d_forward',
                          'get_indice_pairs_2d_backward', 'get_indice_pairs_3d_backward'),
    'furthest_point_sample': ('furthest_point_sampling_forward', 'furthest_point_sampling_with_dist_forward'),
    'point_search': ('ball_query_forward', 'stack_ball_query_forward', 'knn_forward', 'three_nn_forward'),
    'group_points': ('group_points_forward', 'group_points_backward', 'stack_group_points_forward',
                     'stack_group_points_backward', 'gather_points_forward', 'gather_points_backward',
                     'three_interpolate_forward', 'three_interpolate_backward'),
    'box_iou_rotated': ('box_iou_rotated', 'box_iou_quadri'),
    'nms_rotated': ('nms_rotated', 'nms_quadri'),
    'iou3d': ('iou3d_boxes_overlap_bev_forward', 'iou3d_nms3d_forward', 'iou3d_nms3d_normal_forward'),
    'diff_iou_rotated': ('diff_iou_rotated_sort_vertices_forward',),
    'points_in_boxes': ('points_in_boxes_part_forward', 'points_in_boxes_all_forward', 'points_in_boxes_cpu_forward',
                        'points_in_polygons_forward'),
    'roi_pool3d': ('roiaware_pool3d_forward', 'roiaware_pool3d_backward', 'roipoint_pool3d_forward'),
    'roi_align_rotated': ('roi_align_rotated_forward', 'roi_align_rotated_backward'),
    'assign_score_withk': ('assign_score_withk_forward', 'assign_score_withk_backward'),
    'chamfer_distance': ('chamfer_distance_forward', 'chamfer_distance_backward'),
    'border_align': ('border_align_forward', 'border_align_backward'),
    'correlation': ('correlation_forward', 'correlation_backward'),
    'info': ('get_compiler_version', 'get_compiling_cuda_version'),
}
_MODULE_OF = {name: module for module, names in IMPLEMENTED.items() for name in names}

# The other functions of mmcv._ext 2.1.0: they can be imported, and raise MissingOpError unless mmcv is compiled.
NOT_IMPLEMENTED = (
    'active_rotated_filter_backward', 'active_rotated_filter_forward', 'bezier_align_backward', 'bezier_align_forward',
    'bias_act', 'contour_expand', 'convex_giou', 'convex_iou', 'filtered_lrelu', 'filtered_lrelu_act_',
    'fused_bias_leakyrelu', 'min_area_polygons', 'pixel_group', 'riroi_align_rotated_backward',
    'riroi_align_rotated_forward', 'rotated_feature_align_backward', 'rotated_feature_align_forward',
    'sync_bn_backward_data', 'sync_bn_backward_param', 'sync_bn_forward_mean', 'sync_bn_forward_output',
    'sync_bn_forward_var', 'tin_shift_backward', 'tin_shift_forward', 'upfirdn2d')

# Functions of a compiled mmcv 2.1.0 that have a kernel for CPU tensors; the others exist there but raise when called.
# Left out: its voxelization, which refuses deterministic=False, allots the whole grid and casts NaN to an integer.
COMPILED_ON_CPU = frozenset((
    'active_rotated_filter_forward', 'active_rotated_filter_backward', 'bbox_overlaps', 'bezier_align_forward',
    'bezier_align_backward', 'box_iou_quadri', 'box_iou_rotated', 'contour_expand', 'deform_conv_forward',
    'deform_conv_backward_input', 'deform_conv_backward_parameters',
    'get_compiler_version', 'get_compiling_cuda_version', 'modulated_deform_conv_forward',
    'modulated_deform_conv_backward', 'nms', 'nms_match', 'nms_quadri', 'nms_rotated', 'pixel_group',
    'points_in_boxes_cpu_forward', 'psamask_forward', 'psamask_backward', 'roi_align_forward', 'roi_align_backward',
    'roi_align_rotated_forward', 'roi_align_rotated_backward', 'rotated_feature_align_forward',
    'rotated_feature_align_backward', 'softnms'))


class MissingOpError(NotImplementedError):
    """An op that neither the installed mmcv nor mmpapers implements for a device."""


@functools.cache
def implementation(name: str) -> Callable | None:
    """Return mmpapers' function for ``mmcv._ext.<name>``, or None if there is none."""
    module = _MODULE_OF.get(name)
    return getattr(importlib.import_module(f'mmpapers.ops.{module}'), name) if module else None


class _Loader(importlib.abc.Loader):
    """Says that the facade is there: ``mmcv.utils.ext_loader.check_ops_exist`` asks for a loader."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the facade."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing; the facade is complete."""


class ExtFacade(ModuleType):
    """Stands in for ``mmcv._ext``; has every attribute that is asked for, so that importing ``mmcv.ops`` succeeds.

    Args:
        compiled: The real ``mmcv._ext``, or None with mmcv-lite.
    """

    def __init__(self, compiled: ModuleType | None = None) -> None:
        super().__init__('mmcv._ext', __doc__)
        self.__loader__ = _Loader(self)
        self.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', self.__loader__)
        self.compiled = compiled

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        function = functools.partial(self._call, name)
        setattr(self, name, function)
        return function

    def __dir__(self) -> list[str]:
        return sorted((*super().__dir__(), *_MODULE_OF, *NOT_IMPLEMENTED))

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run ``name`` where it can run for its first tensor."""
        tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
        device = 'cpu' if tensor is None else tensor.device.type
        # On the CPU mmcv's kernels refuse float64, float16 or both, or compute in float16.
        exact = tensor is None or device != 'cpu' or tensor.dtype == torch.float32 or not tensor.is_floating_point()
        if self._has_compiled(name, device) and (exact or name not in _MODULE_OF):
            return getattr(self.compiled, name)(*args, **kwargs)
        ours = implementation(name)
        if ours is not None:
            return ours(*args, **kwargs)
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


def install() -> ExtFacade:
    """Put the facade in the place of ``mmcv._ext``; a second call changes nothing.

    Modules of ``mmcv.ops`` that were imported before and hold the compiled kernels get the facade too. Kernels that do
    not load (built for another torch, say) are left aside with a warning.

    Returns:
        The facade.
    """
    present = sys.modules.get('mmcv._ext')
    if isinstance(present, ExtFacade):
        return present
    mmcv = importlib.import_module('mmcv')
    try:
        compiled = importlib.import_module('mmcv._ext')
    except ModuleNotFoundError:
        compiled = None
    except ImportError as error:
        compiled = None
        warnings.warn(f'the compiled ops of mmcv do not load ({error}); mmpapers.ops takes their place. Rebuild mmcv '
                      f'for torch {torch.__version__}, or install mmcv-lite.')
    facade = sys.modules['mmcv._ext'] = mmcv._ext = ExtFacade(compiled)
    for name, module in list(sys.modules.items()):
        if compiled is not None and name.startswith('mmcv.ops.') and getattr(module, 'ext_module', None) is compiled:
            module.ext_module = facade
    return facade
