"""Maxima of features along the borders of boxes (BorderDet, Qiu et al., ECCV 2020), as in mmcv 2.1.0's CUDA kernels.

Of 4C channels the first quarter is sampled along the top border, from the left; the second along the left border, from
the top; the third along the bottom border, from the right; the fourth along the right border, from the bottom.

Difference: the gradient of a sample outside the map is dropped; mmcv's kernel adds zeros beyond the tensor's start.
"""

import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Take the largest of ``pool_size + 1`` bilinear samples on each border.

    Args:
        input: (N, 4C, H, W).
        boxes: (N, K, 4): x1, y1, x2, y2 in pixels of the map.
        output: (N, C, K, 4) for top, left, bottom and right, written in place.
        argmax_idx: Like ``output``, int32: number of the largest sample, of equal ones the first; written in place.
        pool_size: Steps along a border.
    """
    features = widen(input)
    start, step = _borders(boxes.detach().to(features.dtype), pool_size)
    planes = features.reshape(len(features), 4, output.shape[1], -1 if features.numel() else 0)  # (N, 4, C, H * W)
    at, samples = start, []
    for _ in range(pool_size + 1):
        samples.append(_corners(at, *features.shape[2:]))
        at = at + step  # one by one, as the kernel: a product would differ in the last bits
    best, found = features.new_empty(output.shape), torch.empty_like(argmax_idx, memory_format=torch.contiguous_format)
    if not _numba.native(features):
        border_torch(planes, samples, best, found)
    else:
        pixel, weight = (torch.stack(part, 3) for part in zip(*samples))  # (N, K, 4, samples, 4)
        parallel(_border_numba, best.shape[0] * best.shape[1], array(planes), pixel.numpy(), array(weight),
                 best.numpy(), found.numpy())
    output.copy_(best)
    argmax_idx.copy_(found)


def border_align_backward(grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor,
                          pool_size: int) -> None:
    """Add the gradient of each border to the four pixels around its largest sample.

    Args:
        grad_output: (N, C, K, 4).
        boxes: As in :func:`border_align_forward`.
        argmax_idx: (N, C, K, 4), as written by the forward pass.
        grad_input: (N, 4C, H, W), added to in place.
        pool_size: Steps along a border.
    """
    grad = widen(grad_output)
    n, channels = grad.shape[:2]
    height, width = grad_input.shape[2:]
    start, step = (t[:, None] for t in _borders(boxes.detach().to(grad.dtype), pool_size))
    pixel, weight = _corners(start + step * argmax_idx[..., None], height, width)  # (N, C, K, 4, 4)
    plane = (torch.arange(n, device=grad.device)[:, None, None] * 4 + torch.arange(4, device=grad.device)) * channels
    plane = plane + torch.arange(channels, device=grad.device)[:, None]  # (N, C, 4)
    index = plane[:, :, None, :, None] * (height * width) + pixel
    with accumulator(grad_input, grad.dtype) as total:
        total.view(-1).index_add_(0, index.flatten(), (grad[..., None] * weight).flatten())


def border_torch(planes: Tensor, samples: list[tuple[Tensor, Tensor]], best: Tensor, found: Tensor) -> None:
    """Maximum over the samples for any device: one step a sample, all borders at once."""
    n, _, channels = planes.shape[:3]
    for i, (pixel, weight) in enumerate(samples):
        index = pixel.transpose(1, 2).flatten(2)[:, :, None].expand(-1, -1, channels, -1)  # (N, 4, C, K * 4)
        near = planes.gather(3, index).view(n, 4, channels, best.shape[2], 4) * weight.transpose(1, 2)[:, :, None]
        value = (near[..., 0] + near[..., 1] + near[..., 2] + near[..., 3]).permute(0, 2, 3, 1)  # (N, C, K, 4)
        better = value > best if i else torch.ones_like(value, dtype=torch.bool)
        best.copy_(torch.where(better, value, best))
        found.masked_fill_(better, i)


def _borders(boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """First sample and step on every border, as (x, y): both (N, K, 4, 2)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    dx, dy, none = (x2 - x1) / pool_size, (y2 - y1) / pool_size, torch.zeros_like(x1)
    start = torch.stack([x1, y1, x1, y1, x2, y2, x2, y2], -1)
    step = torch.stack([dx, none, none, dy, -dx, none, none, -dy], -1)
    return start.unflatten(-1, (4, 2)), step.unflatten(-1, (4, 2))


def _corners(at: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels around (x, y) places, (..., 2), and their weights, both (..., 4); 0 outside the map, as in RoIAlign."""
    x, y = at.unbind(-1)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    x, y = (torch.where(inside, v, 0).clamp(0, size - 1) for v, size in ((x, width), (y, height)))
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    lx, ly = x - x0, y - y0
    pixel = torch.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], -1)
    weight = torch.stack([(1 - ly) * (1 - lx), (1 - ly) * lx, ly * (1 - lx), ly * lx], -1)
    return pixel, weight * inside[..., None]


@jit
def _border_numba(start, stop, planes, pixel, weight, best, found):
    """Maximum over the samples for rows (image, channel) ``start`` to ``stop``."""
    channels, boxes = best.shape[1:3]
    for row in range(start, stop):
        n, c = divmod(row, channels)
        for k in range(boxes):
            for border in range(4):
                plane, at, by = planes[n, border, c], pixel[n, k, border], weight[n, k, border]
                most, first = plane.dtype.type(0), 0
                for i in range(len(at)):
                    value = (by[i, 0] * plane[at[i, 0]] + by[i, 1] * plane[at[i, 1]] + by[i, 2] * plane[at[i, 2]]
                             + by[i, 3] * plane[at[i, 3]])
                    if i == 0 or value > most:
                        most, first = value, i
                best[n, c, k, border], found[n, c, k, border] = most, first
