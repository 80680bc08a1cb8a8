"""Shim: the layers of spconv 2 on CPU tensors, with the kernels of :mod:`mmpapers.ops.sparse_conv`.

Why: mmdet3d takes spconv's layers wherever spconv 2 is installed. On the CPU, its wheel (2.3.8)
    1. cannot be differentiated, since its backward pass asks for the current CUDA stream;
    2. stops with "tensorview/tensor.h(1223)" on an empty cloud, and leaves out voxels outside the grid in silence;
    3. is not faster than our kernels (``mmpapers benchmark_ops --only sparse_encoder``).
Upstream: traveller59/spconv#366, open-mmlab/mmdetection3d#2061.
May go when spconv's releases are tested on the CPU.

For CPU tensors, the functions behind spconv's layers are replaced; the layers, the layout of their weights and their
checkpoints stay spconv's, and CUDA tensors take spconv's kernels. With ``MMPAPERS_SPCONV=native`` in the environment,
CPU tensors take spconv's too, with the stream mended.
"""

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmpapers.compat.mending import mend, wrap


def install() -> None:
    """Mend spconv when it is imported; where it is not installed, nothing happens."""
    mend(MENDERS)


def _mend_stream(module: ModuleType) -> None:
    """Without CUDA there is one stream, 0."""
    wrap(module, 'get_current_stream', lambda stock: lambda: stock() if torch.cuda.is_available() else 0)


def _mend_ops(module: ModuleType) -> None:
    _mend_stream(module)
    if os.environ.get('MMPAPERS_SPCONV') != 'native':
        for name, ours in REPLACED.items():
            wrap(module, name, lambda stock, ours=ours: _on_cpu(stock, ours))


def _on_cpu(stock: Callable, ours: Callable) -> Callable:
    """Call ``ours`` where the first argument is a CPU tensor, and ``stock`` elsewhere."""
    return lambda tensor, *args, **kwargs: (ours if tensor.device.type == 'cpu' else stock)(tensor, *args, **kwargs)


def _get_indice_pairs(indices: Tensor, batch_size: int, spatial_shape: Sequence[int], algo: Any, ksize: Sequence[int],
                      stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
                      out_padding: Sequence[int], subm: bool = False, transpose: bool = False,
                      num_out_act_bound: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (M, 1 + D), pairs (2, K, N) and counts (K,); of a submanifold kernel all taps, where spconv has half."""
    from spconv.pytorch import ops

    from mmpapers.ops.sparse_conv_pairs import get_indice_pairs_3d_forward
    if subm:
        out_shape = spatial_shape
    elif transpose:
        out_shape = ops.get_deconv_output_size(spatial_shape, ksize, stride, padding, dilation, out_padding)
    else:
        out_shape = ops.get_conv_output_size(spatial_shape, ksize, stride, padding, dilation)
    out, pairs, count = get_indice_pairs_3d_forward(indices, batch_size, out_shape, spatial_shape, ksize, stride,
                                                    padding, dilation, out_padding, subm, transpose)
    return out, pairs.transpose(0, 1), count


def _indice_conv(features: Tensor, filters: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor,
                 num_activate_out: int, inverse: bool = False, subm: bool = False, *_: Any,
                 bias: Tensor | None = None, act_type: Any = None, **__: Any) -> Tensor:
    """Convolve (N, C) with filters (F, *kernel, C) to (M, F)."""
    from mmpapers.ops.sparse_conv import fused_indice_conv_forward
    if getattr(act_type, 'name', 'None_') != 'None_':
        raise NotImplementedError(f'spconv layer with act_type={act_type.name} on the CPU: put the activation behind '
                                  'the layer')
    return fused_indice_conv_forward(features, _taps(filters), bias, indice_pairs.transpose(0, 1), indice_pair_num,
                                     num_activate_out, inverse, subm)


def _indice_conv_backward(features: Tensor, filters: Tensor, out_bp: Tensor, indice_pairs: Tensor,
                          indice_pair_num: Tensor, inverse: bool = False, subm: bool = False, *_: Any,
                          **__: Any) -> tuple[Tensor, Tensor]:
    """Gradients of features and filters."""
    from mmpapers.ops import sparse_conv
    grad, grad_taps = sparse_conv.indice_conv_backward(
        features, _taps(filters), out_bp, indice_pairs.transpose(0, 1), indice_pair_num, inverse, subm)
    return grad, grad_taps.permute(2, 0, 1).reshape(filters.shape)


def _indice_maxpool(features: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor, num_activate_out: int) -> Tensor:
    """Pool (N, C) to (M, C)."""
    from mmpapers.ops import sparse_conv
    return sparse_conv.indice_maxpool_forward(features, indice_pairs.transpose(0, 1), indice_pair_num,
                                              num_activate_out)


def _indice_maxpool_backward(features: Tensor, out_features: Tensor, out_bp: Tensor, indice_pairs: Tensor,
                             indice_pair_num: Tensor) -> Tensor:
    """Gradient of the features."""
    from mmpapers.ops import sparse_conv
    return sparse_conv.indice_maxpool_backward(features, out_features, out_bp, indice_pairs.transpose(0, 1),
                                               indice_pair_num)


def _taps(filters: Tensor) -> Tensor:
    """View spconv's weight (F, *kernel, C) as (K, C, F)."""
    return filters.reshape(len(filters), -1, filters.shape[-1]).permute(1, 2, 0)


REPLACED = {'get_indice_pairs': _get_indice_pairs, 'indice_conv': _indice_conv,
            'indice_conv_backward': _indice_conv_backward, 'indice_maxpool': _indice_maxpool,
            'indice_maxpool_backward': _indice_maxpool_backward}
MENDERS = {'spconv.pytorch.cppcore': _mend_stream, 'spconv.pytorch.ops': _mend_ops}
