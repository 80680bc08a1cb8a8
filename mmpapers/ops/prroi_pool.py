"""Precise RoI pooling: the mean of the bilinear surface over each bin, exactly (Jiang et al., ECCV 2018).

The surface is the sum of a hat over every pixel, so the integral over a bin is a product of two one-dimensional ones
(:mod:`._separable`). The map is zero outside. mmcv 2.1.0 has this op for CUDA only, in float32.
"""

import torch
from torch import Tensor

from . import _separable
from ._numba import widen


def prroi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int,
                       spatial_scale: float) -> None:
    """Average the bilinear surface over every bin.

    Args:
        input: (N, C, H, W).
        rois: (R, 5): image, x1, y1, x2, y2 in pixels of the input image.
        output: (R, C, pooled_height, pooled_width), written in place; 0 for a RoI without area.
        pooled_height: Bins of a RoI, vertically.
        pooled_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.

    Raises:
        ValueError: If RoIs are malformed.
    """
    image, y, x = _axes(input, rois, pooled_height, pooled_width, spatial_scale)
    output.copy_(_separable.pool(input, image, y[0], x[0]))


def prroi_pool_backward(grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int,
                        spatial_scale: float) -> None:
    """Add the gradient with respect to the features to ``grad_input``, (N, C, H, W).

    Args:
        grad_output: (R, C, pooled_height, pooled_width).
        rois: As in :func:`prroi_pool_forward`, like the other arguments.
        grad_input: Added to in place.
        pooled_height: Bins of a RoI, vertically.
        pooled_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.
    """
    image, y, x = _axes(grad_input, rois, pooled_height, pooled_width, spatial_scale)
    _separable.unpool(grad_output, image, y[0], x[0], grad_input)


def prroi_pool_coor_backward(output: Tensor, grad_output: Tensor, input: Tensor, rois: Tensor, grad_rois: Tensor,
                             pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Add the gradient with respect to the RoIs to ``grad_rois``, (R, 5); that of the image index is 0.

    Args:
        output: Not used; mmcv passes the pooled values.
        grad_output: (R, C, pooled_height, pooled_width).
        input: (N, C, H, W).
        rois: As in :func:`prroi_pool_forward`, like the other arguments.
        grad_rois: Added to in place.
        pooled_height: Bins of a RoI, vertically.
        pooled_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.
    """
    image, y, x = _axes(input, rois, pooled_height, pooled_width, spatial_scale)
    grad = widen(grad_output)
    for near, far, wy, wx in ((2, 4, torch.cat(y[1:], 1), x[0]), (1, 3, y[0], torch.cat(x[1:], 1))):
        change = _separable.pool(input, image, wy, wx)  # of the start side, then of the end side
        halves = change.chunk(2, dim=2 if near == 2 else 3)
        for column, half in zip((near, far), halves):
            grad_rois[:, column] += ((half * grad).sum((1, 2, 3)) * spatial_scale).to(grad_rois.dtype)


Weights = tuple[Tensor, Tensor, Tensor]


def _axes(features: Tensor, rois: Tensor, height: int, width: int, scale: float) -> tuple[Tensor, Weights, Weights]:
    """Image of each RoI and the weights of rows and of columns."""
    image, boxes = _separable.read_rois('prroi_pool', rois, len(features))
    dtype = widen(features).dtype
    # Differences of near coordinates need double precision; Apple's GPUs have none.
    boxes = boxes.to(torch.float32 if boxes.device.type == 'mps' else torch.float64) * scale
    return image, *(tuple(w.to(dtype) for w in _weights(boxes[:, a], boxes[:, a + 2], bins, size))
                    for a, bins, size in ((1, height, features.shape[2]), (0, width, features.shape[3])))


def _weights(start: Tensor, end: Tensor, bins: int, size: int) -> Weights:
    """Mean of each pixel's hat over each bin, (R, bins, size), and its derivatives by ``start`` and by ``end``."""
    step = ((end - start).clamp(min=0) / bins)[:, None, None]
    edge = torch.arange(bins + 1, device=start.device, dtype=start.dtype)[:, None]
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    distance = (start[:, None, None] + edge * step - pixel).clamp(-1, 1)  # (R, bins + 1, size)
    left, right = distance.clamp(max=0), distance.clamp(min=0)
    integral = left + left**2 / 2 + right - right**2 / 2
    hat = 1 - distance.abs()
    inverse = torch.where(step > 0, 1 / step, 0)
    mean = integral.diff(dim=1) * inverse
    by_first, by_second = (mean - hat[:, :-1]) * inverse, (hat[:, 1:] - mean) * inverse
    share = edge / bins  # an edge is start * (1 - share) + end * share
    by_end = by_first * share[:-1] + by_second * share[1:]
    return mean, by_first + by_second - by_end, by_end
