"""Multi-scale deformable attention (Zhu et al., ICLR 2021): compiled on CPU, ``grid_sample`` elsewhere.

Shapes: B images, Q queries, M heads, D channels of a head, L levels, P points of a head and level, S pixels of all
levels. A location (x, y) in [0, 1] lies at pixel ``location * size - 0.5``; outside the map the value is 0.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._numba import array, jit, parallel, widen


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
                           sampling_locations: Tensor, attention_weights: Tensor, im2col_step: int) -> Tensor:
    """Sum the values at each query's sampling points, weighted.

    Args:
        value: (B, S, M, D).
        value_spatial_shapes: (L, 2) height and width of each level.
        value_level_start_index: (L,) first row of each level in S.
        sampling_locations: (B, Q, M, L, P, 2), x and y in [0, 1].
        attention_weights: (B, Q, M, L, P).
        im2col_step: Not used: memory does not depend on it.

    Returns:
        (B, Q, M * D), of the type of ``value``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('ms_deform_attn_forward', value, value_spatial_shapes, sampling_locations, attention_weights)
    inputs = tuple(map(widen, (value, sampling_locations, attention_weights)))
    forward = _forward_cpu if value.device.type == 'cpu' else _forward_torch
    return forward(*inputs, value_spatial_shapes, value_level_start_index).to(value.dtype)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
                            sampling_locations: Tensor, attention_weights: Tensor, grad_output: Tensor,
                            grad_value: Tensor, grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int) -> None:
    """Gradients of :func:`ms_deform_attn_forward`.

    Args:
        value: As in the forward; so are the next four and ``im2col_step``.
        grad_output: (B, Q, M * D).
        grad_value: (B, S, M, D), added to.
        grad_sampling_loc: (B, Q, M, L, P, 2), written.
        grad_attn_weight: (B, Q, M, L, P), written.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('ms_deform_attn_backward', value, value_spatial_shapes, sampling_locations, attention_weights)
    inputs = tuple(map(widen, (value, sampling_locations, attention_weights)))
    backward = _backward_cpu if value.device.type == 'cpu' else _backward_torch
    of_locations, of_weights = backward(*inputs, value_spatial_shapes, value_level_start_index, widen(grad_output),
                                        grad_value)
    grad_sampling_loc.copy_(of_locations)
    grad_attn_weight.copy_(of_weights)


def _check(op: str, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> None:
    """Raise a ValueError that says which shape does not fit and what it must be."""
    batch, rows, heads, _ = value.shape
    sizes = shapes.tolist()
    wanted = (batch, locations.shape[1], heads, len(sizes), locations.shape[-2], 2)
    if tuple(locations.shape) != wanted or weights.shape != locations.shape[:-1]:
        raise ValueError(f'{op}: for value {tuple(value.shape)} and {len(sizes)} levels, sampling_locations must be '
                         f'(B, Q, M, L, P, 2) = {wanted} and attention_weights {wanted[:-1]}, but they are '
                         f'{tuple(locations.shape)} and {tuple(weights.shape)}')
    if sum(h * w for h, w in sizes) != rows:
        raise ValueError(f'{op}: value has {rows} rows, but the levels {sizes} hold {sum(h * w for h, w in sizes)}; '
                         'pass the spatial shapes of the maps that value was flattened from')


def _forward_torch(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """The forward on any device, differentiable."""
    batch, _, heads, channels = value.shape
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B M, D, S)
    grids = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B M, L, Q, P, 2)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # (B M, L, Q, P)
    out = 0
    for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist())):
        pixels = maps[:, :, start:start + height * width].unflatten(2, (height, width))
        sampled = F.grid_sample(pixels, grids[:, level], align_corners=False)  # (B M, D, Q, P)
        out = out + (sampled * weights[:, None, level]).sum(-1)
    return out.view(batch, heads * channels, -1).transpose(1, 2)


def _backward_torch(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor, starts: Tensor, grad: Tensor,
                    grad_value: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of locations and weights on any device; adds that of the value to ``grad_value``."""
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with torch.enable_grad():
        out = _forward_torch(*leaves, shapes, starts)
    of_value, *others = torch.autograd.grad(out, leaves, grad)
    grad_value.add_(of_value)
    return tuple(others)


def _forward_cpu(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """The forward, compiled."""
    batch, queries = locations.shape[:2]
    out = value.new_zeros(batch, queries, *value.shape[2:])
    parallel(_forward, batch * queries, *map(array, (value, locations, weights, shapes, starts)), out.numpy(), grain=64)
    return out.flatten(2)


def _backward_cpu(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor, starts: Tensor, grad: Tensor,
                  grad_value: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`_backward_torch` does, compiled."""
    others = tuple(tensor.new_zeros(tensor.shape) for tensor in (locations, weights))
    in_place = grad_value.is_contiguous() and grad_value.dtype == value.dtype
    of_value = grad_value if in_place else value.new_zeros(value.shape)
    grad = grad.reshape(*grad.shape[:2], *value.shape[2:])
    parallel(_backward, len(value) * value.shape[2], *map(array, (value, locations, weights, shapes, starts, grad)),
             *(tensor.numpy() for tensor in (of_value, *others)))
    if not in_place:
        grad_value.add_(of_value)
    return others


@jit
def _corners(x, y, height, width, first, row, weight, slope_x, slope_y):
    """Rows, weights and slopes of the four pixels around (x, y); -1 as the row of a pixel outside."""
    left, top = np.floor(x), np.floor(y)
    for corner in range(4):
        down, right = corner // 2, corner % 2
        i, j = int(top) + down, int(left) + right
        row[corner] = first + i * width + j if 0 <= i < height and 0 <= j < width else -1
        wy, wx = (y - top if down else top + 1 - y), (x - left if right else left + 1 - x)
        weight[corner] = wy * wx
        slope_x[corner] = wy if right else -wy
        slope_y[corner] = wx if down else -wx


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
def _forward(start, stop, value, locations, weights, shapes, starts, out):
    """Queries start to stop, counted through the batch."""
    queries, heads, levels, points = weights.shape[1:]
    row, weight = np.empty(4, np.int64), np.empty(4, value.dtype)
    slope_x, slope_y = np.empty(4, value.dtype), np.empty(4, value.dtype)
    half = np.full(1, 0.5, value.dtype)[0]
    for index in range(start, stop):
        b, q = index // queries, index % queries
        for m in range(heads):
            for level in range(levels):
                height, width = shapes[level]
                for p in range(points):
                    x = locations[b, q, m, level, p, 0] * value.dtype.type(width) - half
                    y = locations[b, q, m, level, p, 1] * value.dtype.type(height) - half
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    _corners(x, y, height, width, starts[level], row, weight, slope_x, slope_y)
                    for corner in range(4):
                        if row[corner] >= 0:
                            _add(out[b, q, m], weight[corner] * weights[b, q, m, level, p], value[b, row[corner], m])


@jit
def _backward(start, stop, value, locations, weights, shapes, starts, grad, grad_value, grad_locations, grad_weights):
    """Heads start to stop, counted through the batch: two heads never write to the same place."""
    queries, heads, levels, points = weights.shape[1:]
    row, weight = np.empty(4, np.int64), np.empty(4, value.dtype)
    slope_x, slope_y = np.empty(4, value.dtype), np.empty(4, value.dtype)
    half, zero = np.full(1, 0.5, value.dtype)[0], np.zeros(1, value.dtype)[0]
    for index in range(start, stop):
        b, m = index // heads, index % heads
        for q in range(queries):
            for level in range(levels):
                height, width = shapes[level]
                for p in range(points):
                    x = locations[b, q, m, level, p, 0] * value.dtype.type(width) - half
                    y = locations[b, q, m, level, p, 1] * value.dtype.type(height) - half
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    _corners(x, y, height, width, starts[level], row, weight, slope_x, slope_y)
                    attention = weights[b, q, m, level, p]
                    for corner in range(4):
                        if row[corner] >= 0:
                            dot = _dot(value[b, row[corner], m], grad[b, q, m], zero)
                            grad_weights[b, q, m, level, p] += weight[corner] * dot
                            grad_locations[b, q, m, level, p, 0] += slope_x[corner] * dot * attention * width
                            grad_locations[b, q, m, level, p, 1] += slope_y[corner] * dot * attention * height
                            _add(grad_value[b, row[corner], m], weight[corner] * attention, grad[b, q, m])
