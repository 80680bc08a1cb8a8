"""Multi-scale deformable attention on CPU through the ops boundary.

Why: ``MultiScaleDeformableAttention`` of mmcv 2.1.0 calls the op for CUDA tensors only and a ``grid_sample`` loop for
CPU tensors. :mod:`mmpapers.ops.ms_deform_attn` has the same values and gradients in a third of the time or less.
Upstream: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/multi_scale_deform_attn.py (the choice of path).
May go when mmcv calls ``mmcv._ext`` for CPU tensors too.
"""

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor


def install() -> None:
    """Replace ``mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch``; a second call does nothing."""
    module = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    original = module.multi_scale_deformable_attn_pytorch
    if not hasattr(original, '__wrapped__'):
        module.multi_scale_deformable_attn_pytorch = _on_cpu(original, module.MultiScaleDeformableAttnFunction.apply)


def _on_cpu(original: Callable, function: Callable) -> Callable:
    """Send plain CPU tensors to ``function`` and others (traced, fake, other devices) to ``original``."""

    @functools.wraps(original)
    def attend(value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor,
               attention_weights: Tensor) -> Tensor:
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.device.type == 'cpu'
        if not plain or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return original(value, value_spatial_shapes, sampling_locations, attention_weights)
        shapes = torch.as_tensor(value_spatial_shapes)
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        # mmcv's autograd function casts the locations to the type of the value: pixels would be lost in half precision.
        half = value.dtype in (torch.float16, torch.bfloat16)
        out = function(value.float() if half else value, shapes, starts, sampling_locations, attention_weights, 64)
        return out.to(value.dtype)

    return attend
