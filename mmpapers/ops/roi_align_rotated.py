"""RoIAlign of rotated boxes (average of bilinear samples), as in mmcv 2.1.0's CPU kernel."""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen
from .roi_align import bilinear


def roi_align_rotated_forward(input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int,
                              spatial_scale: float, sampling_ratio: int, aligned: bool, clockwise: bool) -> None:
    """Average bilinear samples in every bin of every rotated RoI.

    A sample more than a pixel outside the map counts as 0; nearer ones take the border's value.

    Args:
        input: (N, C, H, W).
        rois: (R, 6): image, centre x and y, width, height in pixels of the input image, angle in radians.
        output: (R, C, pooled_height, pooled_width), written in place.
        pooled_height: Bins of a RoI along its height.
        pooled_width: Bins of a RoI along its width.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples of a bin per axis; 0 for one a feature pixel.
        aligned: Shift by half a pixel; if False, RoIs are at least one feature pixel large.
        clockwise: Whether angles grow clockwise in the image.

    Raises:
        ValueError: If RoIs are malformed, or negative in size with ``aligned``.
    """
    image, frames, counts = _read(input, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned,
                                  clockwise)
    features = input.detach().to(frames.dtype)
    if _numba.native(features):
        result = torch.empty(len(rois), pooled_height * pooled_width, features.shape[1], dtype=frames.dtype)
        parallel(_forward_numba, len(rois), array(features.permute(0, 2, 3, 1)), image.numpy(), frames.numpy(),
                 counts.numpy(), (pooled_height, pooled_width), result.numpy(), grain=4)
        result = result.transpose(1, 2).reshape(output.shape)
    else:
        result = _forward_torch(features, image, frames, counts, frames.new_zeros(output.shape))
    output.copy_(result)


def roi_align_rotated_backward(grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int,
                               pooled_width: int, spatial_scale: float, sampling_ratio: int, aligned: bool,
                               clockwise: bool) -> None:
    """Add the gradient with respect to the features to ``grad_input``, (N, C, H, W).

    Args:
        grad_output: (R, C, pooled_height, pooled_width).
        rois: As in :func:`roi_align_rotated_forward`, like the other arguments.
        grad_input: Added to in place.
        pooled_height: Bins of a RoI along its height.
        pooled_width: Bins of a RoI along its width.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples of a bin per axis.
        aligned: Shift by half a pixel.
        clockwise: Whether angles grow clockwise in the image.
    """
    image, frames, counts = _read(grad_input, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio,
                                  aligned, clockwise)
    grad = grad_output.detach().to(frames.dtype)
    if not _numba.native(grad):
        with accumulator(grad_input, frames.dtype) as total:
            _backward_torch(grad, image, frames, counts, total)
        return
    total = torch.zeros(len(grad_input), *grad_input.shape[2:], grad.shape[1], dtype=frames.dtype)
    parallel(_backward_numba, grad.shape[1], array(grad.flatten(2).transpose(1, 2)), image.numpy(), frames.numpy(),
             counts.numpy(), (pooled_height, pooled_width), total.numpy(), grain=32)
    grad_input += total.permute(0, 3, 1, 2).to(grad_input.dtype)


def _read(features: Tensor, rois: Tensor, height: int, width: int, scale: float, sampling_ratio: int, aligned: bool,
          clockwise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Image (R,), frame (R, 6) = centre x and y, width and height of a bin, cosine and sine, and samples (R, 2)."""
    if rois.ndim != 2 or rois.shape[1] != 6:
        raise ValueError(f'roi_align_rotated: RoIs must be (R, 6) = (image, x, y, w, h, angle), but are '
                         f'{tuple(rois.shape)}')
    finite = rois.isfinite().all(1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise ValueError(f'roi_align_rotated: RoI {bad} is {rois[bad].tolist()}, not finite: the network that '
                         'predicted it has diverged; lower the learning rate or set optim_wrapper.clip_grad')
    image, boxes = rois[:, 0].detach().long(), rois[:, 1:].detach().to(widen(features).dtype)
    if len(image) and not 0 <= int(image.min()) <= int(image.max()) < len(features):
        raise ValueError(f'roi_align_rotated: RoIs name the images {int(image.min())} to {int(image.max())}, but the '
                         f'features hold {len(features)}: column 0 of RoIs is the index of the image in the batch')
    centre, size = boxes[:, :2] * scale - 0.5 * aligned, boxes[:, 2:4] * scale
    if not aligned:
        size = size.clamp(min=1)
    elif bool((size < 0).any()):
        bad = int((size < 0).any(1).nonzero()[0])
        raise ValueError(f'roi_align_rotated: RoI {bad} is {rois[bad].tolist()}: with aligned=True a RoI needs w >= 0 '
                         'and h >= 0')
    angle = boxes[:, 4] * (-1 if clockwise else 1)
    step = size / size.new_tensor([width, height])
    counts = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.float().ceil()
    return image, torch.cat([centre, step, angle.cos()[:, None], angle.sin()[:, None]], 1), counts.long()


def _offset(bin_size: Tensor, bins: int, count: Tensor, sample: int) -> Tensor:
    """Position (R, bins) of a sample of each bin along an axis of the RoI, from its centre."""
    index = torch.arange(bins, device=bin_size.device, dtype=bin_size.dtype)
    return -bins * bin_size[:, None] / 2 + index * bin_size[:, None] + ((sample + 0.5) * bin_size / count)[:, None]


def _samples(frames: Tensor, counts: Tensor, bins: torch.Size, map_size: torch.Size):
    """Yield four pixels (R, P * Q) of the map and their weights for one sample of each bin after the other."""
    x, y, w, h, cos, sin = frames[:, :, None, None].unbind(1)
    columns, rows = counts.unbind(1)
    total = counts.prod(1).clamp(min=1)
    for i in range(int(rows.max()) if len(rows) else 0):
        v = _offset(frames[:, 3], bins[0], rows, i)[:, :, None]
        for j in range(int(columns.max())):
            u = _offset(frames[:, 2], bins[1], columns, j)[:, None]
            low_y, high_y, *weights_y = bilinear(v * cos - u * sin + y, map_size[0])
            low_x, high_x, *weights_x = bilinear(v * sin + u * cos + x, map_size[1])
            share = (((i < rows) & (j < columns)).to(frames.dtype) / total)[:, None, None]
            for row, weight_y in zip((low_y, high_y), weights_y):
                for column, weight_x in zip((low_x, high_x), weights_x):
                    yield (row * map_size[1] + column).flatten(1), (weight_y * weight_x * share).flatten(1)


def _forward_torch(features: Tensor, image: Tensor, frames: Tensor, counts: Tensor, out: Tensor) -> Tensor:
    """Forward pass for any device; adds to ``out``, (R, C, P, Q)."""
    flat = features.flatten(2)[image]  # (R, C, H * W)
    for index, weight in _samples(frames, counts, out.shape[2:], features.shape[2:]):
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        out += (values * weight[:, None]).view_as(out)
    return out


def _backward_torch(grad: Tensor, image: Tensor, frames: Tensor, counts: Tensor, total: Tensor) -> None:
    """Backward pass for any device; adds to ``total``, (N, C, H, W)."""
    channels, height, width = total.shape[1:]
    plane = (image[:, None] * channels + torch.arange(channels, device=grad.device))[:, :, None] * height * width
    for index, weight in _samples(frames, counts, grad.shape[2:], total.shape[2:]):
        total.view(-1).index_add_(0, (plane + index[:, None]).flatten(), (grad.flatten(2) * weight[:, None]).flatten())


@jit
def _weigh(frame, count, bins_h, bins_w, height, width, dtype):
    """Pixels of the map, (bins, samples * 4), and their weights in each bin of a RoI."""
    x, y, w, h, cos, sin = frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]
    columns, rows = count[0], count[1]
    pixel = np.empty((bins_h * bins_w, rows * columns * 4), np.int64)
    weight = np.empty(pixel.shape, dtype)
    for b in range(bins_h * bins_w):
        p, q, k = b // bins_w, b % bins_w, 0
        for i in range(rows):
            v = -bins_h * h / 2 + p * h + (i + 0.5) * h / rows
            for j in range(columns):
                u = -bins_w * w / 2 + q * w + (j + 0.5) * w / columns
                at_y, at_x = v * cos - u * sin + y, v * sin + u * cos + x
                inside = -1 <= at_y <= height and -1 <= at_x <= width
                at_y, at_x = min(max(at_y, 0), height - 1), min(max(at_x, 0), width - 1)
                y0, x0 = int(at_y), int(at_x)
                y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                lower, right, share = at_y - y0, at_x - x0, inside / (rows * columns)
                pixel[b, k], weight[b, k] = y0 * width + x0, (1 - lower) * (1 - right) * share
                pixel[b, k + 1], weight[b, k + 1] = y0 * width + x1, (1 - lower) * right * share
                pixel[b, k + 2], weight[b, k + 2] = y1 * width + x0, lower * (1 - right) * share
                pixel[b, k + 3], weight[b, k + 3] = y1 * width + x1, lower * right * share
                k += 4
    return pixel, weight


@jit
def _forward_numba(start, stop, features, image, frames, counts, size, out):
    """Forward pass of RoIs ``start`` to ``stop``; features (N, H, W, C), out (R, P * Q, C)."""
    height, width, channels = features.shape[1:]
    for r in range(start, stop):
        pixel, weight = _weigh(frames[r], counts[r], size[0], size[1], height, width, features.dtype)
        source = features[image[r]].reshape(height * width, channels)
        for b in range(len(pixel)):
            target = out[r, b]
            target[:] = 0
            for k in range(pixel.shape[1]):
                row, share = source[pixel[b, k]], weight[b, k]
                if share != 0:
                    for c in range(channels):
                        target[c] += share * row[c]


@jit
def _backward_numba(start, stop, grad, image, frames, counts, size, total):
    """Backward pass of channels ``start`` to ``stop``; grad (R, P * Q, C), total (N, H, W, C)."""
    height, width, channels = total.shape[1:]
    for r in range(len(grad)):
        pixel, weight = _weigh(frames[r], counts[r], size[0], size[1], height, width, grad.dtype)
        target = total[image[r]].reshape(height * width, channels)
        for b in range(len(pixel)):
            source = grad[r, b, start:stop]
            for k in range(pixel.shape[1]):
                row, share = target[pixel[b, k], start:stop], weight[b, k]
                if share != 0:
                    for c in range(stop - start):
                        row[c] += share * source[c]
