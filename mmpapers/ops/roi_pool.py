"""RoI max pooling over whole pixels (Girshick, ICCV 2015), as in mmcv 2.1.0's CUDA kernel.

Difference: a RoI without area gets no gradient; mmcv leaves its argmax at pixel 0, which then receives one.
"""

import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen
from ._separable import read_rois

_LOWEST = torch.finfo(torch.float32).min


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, pooled_height: int,
                     pooled_width: int, spatial_scale: float) -> None:
    """Take the maximum of the pixels that each bin touches.

    Args:
        input: (N, C, H, W).
        rois: (R, 5): image, x1, y1, x2, y2 in pixels of the input image, both corners inside.
        output: (R, C, pooled_height, pooled_width), written in place; 0 where a bin touches no pixel.
        argmax: Like ``output``, int32, written with ``y * W + x`` of the maximum or -1; of equal ones the first.
        pooled_height: Bins of a RoI, vertically.
        pooled_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.

    Raises:
        ValueError: If RoIs are malformed.
    """
    image, boxes = read_rois('roi_pool', rois, len(input))
    features = widen(input)
    height, width = features.shape[2:]
    start, end = boxes[:, :2] * spatial_scale, (boxes[:, 2:] + 1) * spatial_scale
    valid = (end > start).all(1)
    x0, x1 = _bins(start[:, 0], end[:, 0], valid, pooled_width, width)
    y0, y1 = _bins(start[:, 1], end[:, 1], valid, pooled_height, height)
    best = features.new_full(output.shape, _LOWEST)
    best.masked_fill_(((y1 <= y0)[:, :, None] | (x1 <= x0)[:, None])[:, None], 0)
    found = torch.full_like(argmax, -1)
    if not _numba.native(output):
        max_torch(features, image, y0, y1, x0, x1, best, found)
    else:
        parallel(_max_numba, features.shape[1], array(features), *map(array, (image, y0, y1, x0, x1)), best.numpy(),
                 found.numpy())
    output.copy_(best)
    argmax.copy_(found)


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, pooled_height: int,
                      pooled_width: int, spatial_scale: float) -> None:
    """Add each bin's gradient to the pixel that was its maximum.

    Args:
        grad_output: (R, C, pooled_height, pooled_width).
        rois: As in :func:`roi_pool_forward`.
        argmax: As written by the forward pass.
        grad_input: (N, C, H, W), added to in place.
        pooled_height: Not used; the shape says it.
        pooled_width: Not used.
        spatial_scale: Not used; ``argmax`` says it.
    """
    grad = widen(grad_output)
    channels = grad.shape[1]
    pixels = grad_input.shape[2] * grad_input.shape[3]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=grad.device)  # (R, C)
    index = plane[:, :, None, None] * pixels + argmax.clamp(min=0)
    with accumulator(grad_input, grad.dtype) as total:
        total.view(-1).index_add_(0, index.flatten(), (grad * (argmax >= 0)).flatten())


def max_torch(features: Tensor, image: Tensor, y0: Tensor, y1: Tensor, x0: Tensor, x1: Tensor, best: Tensor,
              found: Tensor) -> None:
    """Maximum over bins for any device: one step a pixel of the largest bin, all bins of all RoIs at once."""
    width = features.shape[3]
    flat = features.flatten(2)[image]  # (R, C, H * W)
    tall, wide = (int((end - start).max()) if len(start) else 0 for start, end in ((y0, y1), (x0, x1)))
    for i in range(tall):
        for j in range(wide):
            y, x = (y0 + i)[:, :, None], (x0 + j)[:, None]
            inside = (y < y1[:, :, None]) & (x < x1[:, None])  # (R, P, Q)
            pixel = torch.where(inside, y * width + x, 0)
            value = flat.gather(2, pixel.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).view_as(best)
            better = inside[:, None] & (value > best)
            best.copy_(torch.where(better, value, best))
            found.copy_(torch.where(better, pixel[:, None], found))


def _bins(start: Tensor, end: Tensor, valid: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel and end of every bin along an axis, (R, bins) int64; both 0 for RoIs that are not valid."""
    step = ((end - start) / bins)[:, None]
    edges = torch.arange(bins + 1, device=start.device, dtype=start.dtype) * step + start[:, None]
    low, high = edges[:, :-1].floor(), edges[:, 1:].ceil()
    return tuple((edge.clamp(0, size) * valid[:, None]).long() for edge in (low, high))


@jit
def _max_numba(start, stop, features, image, y0, y1, x0, x1, best, found):
    """Maximum over bins for channels ``start`` to ``stop``."""
    rois, _, bins_h, bins_w = best.shape
    width = features.shape[3]
    for c in range(start, stop):
        for r in range(rois):
            plane = features[image[r], c]
            for p in range(bins_h):
                for q in range(bins_w):
                    largest, at = best[r, c, p, q], -1
                    for y in range(y0[r, p], y1[r, p]):
                        for x in range(x0[r, q], x1[r, q]):
                            if plane[y, x] > largest:
                                largest, at = plane[y, x], y * width + x
                    best[r, c, p, q], found[r, c, p, q] = largest, at
