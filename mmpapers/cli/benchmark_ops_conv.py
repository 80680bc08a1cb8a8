"""Cases of the op benchmark: convolutions, attention, CARAFE, PSA mask and deformable RoI pooling at their usual sizes.

Each case calls mmcv's public function, so that it measures whatever stands behind ``mmcv._ext``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        op: Name of the op.
        size: Size in words.
        make: Returns the function and its arguments; tensors that require gradients are differentiated.
    """
    op: str
    size: str
    make: Callable[[], tuple[Callable, Sequence]]


def _modulated(batch: int, inside: int, outside: int, height: int, width: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
    tensors = (torch.randn(batch, inside, height, width), torch.randn(batch, 18, height, width),
               torch.rand(batch, 9, height, width), torch.randn(outside, inside, 3, 3), torch.randn(outside))
    return modulated_deform_conv2d, (*_leaves(*tensors), 1, 1)


def _plain(batch: int, channels: int, height: int, width: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.deform_conv import deform_conv2d
    tensors = (torch.randn(batch, channels, height, width), torch.randn(batch, 18, height, width),
               torch.randn(channels, channels, 3, 3))
    return deform_conv2d, (*_leaves(*tensors), 1, 1)


def _attention(height: int, width: int, queries: int | None) -> tuple[Callable, Sequence]:
    """Four levels from (height, width) down; as many queries as pixels (an encoder) where None."""
    from mmcv.ops import multi_scale_deform_attn
    shapes = torch.tensor([[-(-height // 2 ** i), -(-width // 2 ** i)] for i in range(4)])
    pixels = int(shapes.prod(1).sum())
    # Queries look near their own place, as trained ones do.
    own = torch.rand(1, queries or pixels, 1, 1, 1, 2)
    locations = own + 0.05 * torch.randn(1, queries or pixels, 8, 4, 4, 2)
    value, weights = torch.randn(1, pixels, 8, 32), torch.rand(locations.shape[:-1])
    value, locations, weights = _leaves(value, locations, weights)
    return multi_scale_deform_attn.multi_scale_deformable_attn_pytorch, (value, shapes, locations, weights)


def _psa(kind: int, height: int, width: int, mask: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.psa_mask import psa_mask
    return psa_mask, (*_leaves(torch.randn(1, mask ** 2, height, width)), kind, (mask, mask))


def _carafe(height: int, width: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.carafe import carafe
    masks = torch.rand(1, 25, 2 * height, 2 * width).softmax(1)
    return carafe, (*_leaves(torch.randn(1, 256, height, width), masks), 5, 1, 2)


def _deform_roi_pool(rois: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.deform_roi_pool import deform_roi_pool
    x, offset = _leaves(torch.randn(1, 256, 50, 84), torch.randn(rois, 2, 7, 7))
    low = torch.rand(rois, 2) * torch.tensor([1000.0, 600.0])
    boxes = torch.cat([torch.zeros(rois, 1), low, low + torch.rand(rois, 2) * 200], 1)
    return deform_roi_pool, (x, boxes, offset, (7, 7), 1 / 16, 2, 0.1)


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in tensors]


CASES = [
    Case('modulated_deform_conv', '256 -> 256, 1x256x25x38', lambda: _modulated(1, 256, 256, 25, 38)),
    Case('modulated_deform_conv', '512 -> 256, 1x512x8x8', lambda: _modulated(1, 512, 256, 8, 8)),
    Case('modulated_deform_conv', '512 -> 256, 1x512x16x16', lambda: _modulated(1, 512, 256, 16, 16)),
    Case('deform_conv', '256 -> 256, 1x256x25x38', lambda: _plain(1, 256, 25, 38)),
    Case('ms_deform_attn', '300 queries, 4 levels from 100x167', lambda: _attention(100, 167, 300)),
    Case('ms_deform_attn', '1275 queries, 4 levels from 24x40 (encoder)', lambda: _attention(24, 40, None)),
    Case('ms_deform_attn', '5603 queries, 4 levels from 50x84 (encoder)', lambda: _attention(50, 84, None)),
    Case('psamask', 'collect, 30x30, mask 59x59', lambda: _psa(0, 30, 30, 59)),
    Case('psamask', 'distribute, 30x30, mask 59x59', lambda: _psa(1, 30, 30, 59)),
    Case('carafe', 'scale 2, kernel 5, 1x256x50x84', lambda: _carafe(50, 84)),
    Case('deform_roi_pool', '128 RoIs, 7x7, 1x256x50x84', lambda: _deform_roi_pool(128)),
]
