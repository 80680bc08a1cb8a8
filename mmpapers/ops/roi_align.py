"""RoIAlign, average and maximum (He et al., ICCV 2017), as in mmcv 2.1.0's CPU kernel.

The average is a product of row and column weights (:mod:`._separable`); the maximum looks at each sample.
"""

import torch
from torch import Tensor

from . import _numba, _separable
from ._numba import accumulator, array, jit, parallel, widen

_LOWEST = -10000.0  # mmcv starts the maximum here


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    """Sample every bin of every RoI bilinearly and pool the samples.

    A sample more than a pixel outside the map counts as 0; nearer ones take the border's value.

    Args:
        input: (N, C, H, W).
        rois: (R, 5): image, x1, y1, x2, y2 in pixels of the input image.
        output: (R, C, aligned_height, aligned_width), written in place.
        argmax_y: Like ``output``; written with the y of the largest sample if ``pool_mode`` is 0.
        argmax_x: Its x.
        aligned_height: Bins of a RoI, vertically.
        aligned_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples of a bin per axis; 0 for one a feature pixel.
        pool_mode: 0 maximum, 1 average.
        aligned: Shift by half a pixel; if False, RoIs are at least one feature pixel large.

    Raises:
        ValueError: If RoIs are malformed, or negative in size with ``aligned``.
    """
    image, y, x = _axes(input, rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:
        output.copy_(_separable.pool(input, image, _weights(*y, input.shape[2]), _weights(*x, input.shape[3])))
        return
    features = input.detach().to(y[0].dtype)
    shape = output.shape
    best, best_y, best_x = features.new_full(shape, _LOWEST), features.new_full(shape, -1), features.new_full(shape, -1)
    if not _numba.native(output):
        max_torch(features, image, *y, *x, best, best_y, best_x)
    else:
        samples = (*y, *x, *bilinear(y[0], input.shape[2]), *bilinear(x[0], input.shape[3]))
        parallel(_max_numba, input.shape[1], array(features), image.numpy(), *map(array, samples), best.numpy(),
                 best_y.numpy(), best_x.numpy())
    for target, value in ((output, best), (argmax_y, best_y), (argmax_x, best_x)):
        target.copy_(value)


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Add the gradient with respect to the features to ``grad_input``, (N, C, H, W).

    Args:
        grad_output: (R, C, aligned_height, aligned_width).
        rois: As in :func:`roi_align_forward`, like the other arguments.
        argmax_y: As written by the forward pass.
        argmax_x: As written by the forward pass.
        grad_input: Added to in place.
        aligned_height: Bins of a RoI, vertically.
        aligned_width: Bins of a RoI, horizontally.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples of a bin per axis.
        pool_mode: 0 maximum, 1 average.
        aligned: Shift by half a pixel.
    """
    image, y, x = _axes(grad_input, rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:
        _separable.unpool(grad_output, image, _weights(*y, grad_input.shape[2]), _weights(*x, grad_input.shape[3]),
                          grad_input)
        return
    grad = widen(grad_output)
    with accumulator(grad_input, grad.dtype) as total:
        if _numba.native(grad):
            parallel(_max_backward_numba, grad.shape[1], array(grad), image.numpy(), array(argmax_y), array(argmax_x),
                     total.numpy())
        else:
            max_backward_torch(grad, image, widen(argmax_y), widen(argmax_x), total)


def bilinear(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the two pixels of an axis that a position lies between, int64, and their weights.

    Both weights are 0 for a position more than a pixel outside.
    """
    inside = (position >= -1) & (position <= size)
    position = torch.where(inside, position, 0).clamp(0, size - 1)
    low = position.long()
    fraction = position - low
    return low, (low + 1).clamp(max=size - 1), (1 - fraction) * inside, fraction * inside


def _axes(features: Tensor, rois: Tensor, height: int, width: int, scale: float, sampling_ratio: int,
          aligned: bool) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Image of each RoI and, for y and x, the sample positions (R, bins, G) with the count of valid ones (R,)."""
    image, boxes = _separable.read_rois('roi_align', rois, len(features))
    boxes = boxes.to(widen(features).dtype) * scale - 0.5 * aligned
    size = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    elif bool((size < 0).any()):
        bad = int((size < 0).any(1).nonzero()[0])
        raise ValueError(f'roi_align: RoI {bad} is {rois[bad].tolist()}: with aligned=True a RoI needs x2 >= x1 and '
                         'y2 >= y1')
    return image, *(_positions(boxes[:, a], size[:, a], bins, sampling_ratio) for a, bins in ((1, height), (0, width)))


def _positions(start: Tensor, size: Tensor, bins: int, sampling_ratio: int) -> tuple[Tensor, Tensor]:
    """Sample positions (R, bins, G) along an axis; only the first ``count`` (R,) of the G are meant."""
    step = size / bins
    count = torch.full_like(start, sampling_ratio) if sampling_ratio > 0 else step.float().ceil().to(step.dtype)
    samples = torch.arange(int(count.max()) if len(count) else 0, device=start.device, dtype=start.dtype) + 0.5
    offsets = samples * step[:, None] / count[:, None]  # (R, G)
    corners = start[:, None] + torch.arange(bins, device=start.device, dtype=start.dtype) * step[:, None]
    return corners[:, :, None] + offsets[:, None], count.long()


def _weights(position: Tensor, count: Tensor, size: int) -> Tensor:
    """Mean bilinear weight (R, bins, size) of each pixel of an axis over the samples of a bin."""
    meant = torch.arange(position.shape[-1], device=position.device) < count[:, None, None]
    low, high, low_weight, high_weight = bilinear(torch.where(meant, position, -2), size)
    weights = position.new_zeros(*position.shape[:2], size)
    weights.scatter_add_(-1, low, low_weight).scatter_add_(-1, high, high_weight)
    return weights / count.clamp(min=1)[:, None, None]


def max_torch(features: Tensor, image: Tensor, y: Tensor, y_count: Tensor, x: Tensor, x_count: Tensor, best: Tensor,
              best_y: Tensor, best_x: Tensor) -> None:
    """Maximum over samples for any device: one step a sample of a bin, all bins of all RoIs at once."""
    height, width = features.shape[2:]
    flat = features.flatten(2)[image]  # (R, C, H * W)
    for i in range(y.shape[2]):
        rows = bilinear(y[:, :, i, None], height)  # (R, P, 1)
        for j in range(x.shape[2]):
            columns = bilinear(x[:, None, :, j], width)  # (R, 1, Q)
            value = torch.zeros_like(best)
            for row, row_weight in zip(rows[:2], rows[2:]):
                for column, column_weight in zip(columns[:2], columns[2:]):
                    index = (row * width + column).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
                    value += (row_weight * column_weight)[:, None] * flat.gather(2, index).view_as(best)
            better = (value > best) & ((i < y_count) & (j < x_count))[:, None, None, None]
            best.copy_(torch.where(better, value, best))
            best_y.copy_(torch.where(better, y[:, None, :, i, None], best_y))
            best_x.copy_(torch.where(better, x[:, None, None, :, j], best_x))


def max_backward_torch(grad: Tensor, image: Tensor, argmax_y: Tensor, argmax_x: Tensor, total: Tensor) -> None:
    """Gradient of the maximum for any device; adds to ``total``, (N, C, H, W)."""
    channels, height, width = total.shape[1:]
    found = argmax_y != -1
    rows = bilinear(torch.where(found, argmax_y, -2), height)
    columns = bilinear(argmax_x, width)
    plane = image[:, None, None, None] * channels + torch.arange(channels, device=grad.device)[:, None, None]
    for row, row_weight in zip(rows[:2], rows[2:]):
        for column, column_weight in zip(columns[:2], columns[2:]):
            index = (plane * height + row) * width + column
            total.view(-1).index_add_(0, index.flatten(), (grad * row_weight * column_weight).flatten())


@jit
def _max_numba(start, stop, features, image, y, y_count, x, x_count, y0, y1, v0, v1, x0, x1, u0, u1,
               best, best_y, best_x):
    """Maximum over the samples of each bin for channels ``start`` to ``stop``."""
    rois, _, bins_h, bins_w = best.shape
    for c in range(start, stop):
        for r in range(rois):
            plane = features[image[r], c]
            for p in range(bins_h):
                for q in range(bins_w):
                    largest, at_y, at_x = best[r, c, p, q], best_y[r, c, p, q], best_x[r, c, p, q]
                    for i in range(y_count[r]):
                        top, bottom = plane[y0[r, p, i]], plane[y1[r, p, i]]
                        up, down = v0[r, p, i], v1[r, p, i]
                        for j in range(x_count[r]):
                            low, high, left, right = x0[r, q, j], x1[r, q, j], u0[r, q, j], u1[r, q, j]
                            value = (up * (left * top[low] + right * top[high])
                                     + down * (left * bottom[low] + right * bottom[high]))
                            if value > largest:
                                largest, at_y, at_x = value, y[r, p, i], x[r, q, j]
                    best[r, c, p, q], best_y[r, c, p, q], best_x[r, c, p, q] = largest, at_y, at_x


@jit
def _max_backward_numba(start, stop, grad, image, argmax_y, argmax_x, total):
    """Gradient of the maximum for channels ``start`` to ``stop``."""
    rois, _, bins_h, bins_w = grad.shape
    height, width = total.shape[2:]
    for c in range(start, stop):
        for r in range(rois):
            plane = total[image[r], c]
            for p in range(bins_h):
                for q in range(bins_w):
                    y, x = argmax_y[r, c, p, q], argmax_x[r, c, p, q]
                    if y == -1 or not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    y0, x0 = int(y), int(x)
                    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                    lower, right, value = y - y0, x - x0, grad[r, c, p, q]
                    plane[y0, x0] += value * (1 - lower) * (1 - right)
                    plane[y0, x1] += value * (1 - lower) * right
                    plane[y1, x0] += value * lower * (1 - right)
                    plane[y1, x1] += value * lower * right
