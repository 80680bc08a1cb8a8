"""Deformable im2col and its gradients, on channels-last maps: a tap of the kernel reads all channels in one go.

A *point* is one output pixel of one image, and takes K samples, the taps of the kernel. Shapes below: N points of all
images, G groups of offsets, C channels, R = images * height * width rows of the map.
"""

import numpy as np
import torch
from torch import Tensor

from ._numba import array, jit, parallel


def im2col(rows: Tensor, points: Tensor, mask: Tensor, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample the map at the points, bilinearly, with zeros outside.

    Args:
        rows: (R, C) map, float32 or float64.
        points: (N, G, K, 2), y and x in pixels.
        mask: (N, G, K) factor of each sample.
        image: (N,) int64 index of each point's image.
        size: Height and width of the map.

    Returns:
        (N, K, C) columns.
    """
    if rows.device.type != 'cpu':
        return _im2col_torch(rows, points, mask, image, size)
    columns = rows.new_empty(len(mask), mask.shape[2], rows.shape[1])
    parallel(_im2col, len(mask), *map(array, (rows, points, mask, image)), *size, columns.numpy(), grain=32)
    return columns


def col2im(rows: Tensor, points: Tensor, mask: Tensor, image: Tensor, size: tuple[int, int], grad: Tensor,
           grad_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`im2col`, and its result once more, in one pass.

    Args:
        rows: As in :func:`im2col`; so are points, mask, image and size.
        grad: (N, K, C) gradient of the columns.
        grad_rows: (R, C), contiguous, added to.

    Returns:
        (N, K, C) columns, and the gradients of points and mask.
    """
    if rows.device.type != 'cpu':
        return _col2im_torch(rows, points, mask, image, size, grad, grad_rows)
    columns, grad_points, grad_mask = grad.new_empty(grad.shape), torch.zeros_like(points), torch.zeros_like(mask)
    _col2im(*map(array, (rows, points, mask, image)), *size, array(grad), columns.numpy(), grad_rows.numpy(),
            grad_points.numpy(), grad_mask.numpy())
    return columns, grad_points, grad_mask


def _im2col_torch(rows: Tensor, points: Tensor, mask: Tensor, image: Tensor, size: tuple[int, int]) -> Tensor:
    """:func:`im2col` on any device, differentiable."""
    height, width = size
    (n, groups, taps), channels = mask.shape, rows.shape[1]
    y, x = points.unbind(-1)
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = y.where(inside, torch.zeros_like(y)), x.where(inside, torch.zeros_like(x))
    mask = mask * inside
    grouped = rows.view(-1, groups, channels // groups)
    group = torch.arange(groups, device=rows.device)[:, None]
    start = (image * (height * width))[:, None, None]
    top, left = y.detach().floor(), x.detach().floor()
    columns = rows.new_zeros(n, groups, taps, channels // groups)
    for row, wy in ((top, top + 1 - y), (top + 1, y - top)):
        for column, wx in ((left, left + 1 - x), (left + 1, x - left)):
            real = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = start + (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            columns = columns + grouped[index, group] * (wy * wx * mask * real)[..., None]
    return columns.transpose(1, 2).reshape(n, taps, channels)


def _col2im_torch(rows: Tensor, points: Tensor, mask: Tensor, image: Tensor, size: tuple[int, int], grad: Tensor,
                  grad_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`col2im` on any device."""
    leaves = [tensor.detach().requires_grad_() for tensor in (rows, points, mask)]
    with torch.enable_grad():
        columns = _im2col_torch(*leaves, image, size)
    of_rows, *found = torch.autograd.grad(columns, leaves, grad)
    grad_rows += of_rows
    return columns.detach(), *found


@jit
def _corners(y, x, height, width, first, row, weight, slope_y, slope_x):
    """Rows, weights and slopes of the four pixels around (y, x); -1 as the row of a pixel outside."""
    top, left = np.floor(y), np.floor(x)
    for corner in range(4):
        down, right = corner // 2, corner % 2
        i, j = int(top) + down, int(left) + right
        row[corner] = first + i * width + j if 0 <= i < height and 0 <= j < width else -1
        wy, wx = (y - top if down else top + 1 - y), (x - left if right else left + 1 - x)
        weight[corner] = wy * wx
        slope_y[corner] = wx if down else -wx
        slope_x[corner] = wy if right else -wy


@jit(fastmath={'contract', 'reassoc'})
def _add(target, factor, source):
    for c in range(len(target)):
        target[c] += factor * source[c]


@jit(fastmath={'contract', 'reassoc'})
def _dot(a, b, total):
    for c in range(len(a)):
        total += a[c] * b[c]
    return total


@jit
def _im2col(start, stop, rows, points, mask, image, height, width, columns):
    groups, taps = mask.shape[1:]
    step = rows.shape[1] // groups
    row, weight = np.empty(4, np.int64), np.empty(4, rows.dtype)
    slope_y, slope_x = np.empty(4, rows.dtype), np.empty(4, rows.dtype)
    for n in range(start, stop):
        for g in range(groups):
            low, high = g * step, (g + 1) * step
            for k in range(taps):
                y, x = points[n, g, k]
                column = columns[n, k, low:high]
                column[:] = 0
                if y > -1 and x > -1 and y < height and x < width:
                    _corners(y, x, height, width, image[n] * height * width, row, weight, slope_y, slope_x)
                    for corner in range(4):
                        if row[corner] >= 0:
                            _add(column, weight[corner] * mask[n, g, k], rows[row[corner], low:high])


@jit
def _col2im(rows, points, mask, image, height, width, grad, columns, grad_rows, grad_points, grad_mask):
    groups, taps = mask.shape[1:]
    step = rows.shape[1] // groups
    row, weight = np.empty(4, np.int64), np.empty(4, rows.dtype)
    slope_y, slope_x = np.empty(4, rows.dtype), np.empty(4, rows.dtype)
    zero = np.zeros(1, rows.dtype)[0]
    for n in range(len(mask)):
        for g in range(groups):
            low, high = g * step, (g + 1) * step
            for k in range(taps):
                y, x = points[n, g, k]
                column, of_column = columns[n, k, low:high], grad[n, k, low:high]
                column[:] = 0
                if not (y > -1 and x > -1 and y < height and x < width):
                    continue
                _corners(y, x, height, width, image[n] * height * width, row, weight, slope_y, slope_x)
                m = mask[n, g, k]
                for corner in range(4):
                    if row[corner] >= 0:
                        source = rows[row[corner], low:high]
                        dot = _dot(source, of_column, zero)
                        grad_mask[n, g, k] += weight[corner] * dot
                        grad_points[n, g, k, 0] += slope_y[corner] * dot * m
                        grad_points[n, g, k, 1] += slope_x[corner] * dot * m
                        _add(grad_rows[row[corner], low:high], weight[corner] * m, of_column)
                        _add(column, weight[corner] * m, source)
