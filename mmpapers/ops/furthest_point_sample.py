"""Furthest point sampling (Qi et al., PointNet++, NeurIPS 2017), as in mmcv 2.1.0's CUDA kernels.

The kernels start at point 0 and take, step by step, the point whose squared distance to those already taken is the
largest. Among equal distances the winner follows from how their T = min(1024, the power of two up to N) threads share
the points and merge: the smallest bit-reversed ``index % T`` first, the smallest index next.
:func:`tie_ranks` numbers the points in that order. A point without finite distance (NaN) counts as far away for good.

On the CPU neighbours in space share a bucket. A step visits only buckets that the new point can be nearer to than
their furthest point is; the others could not change, since rounding is monotone and bounds and distances are computed
alike.

Differences: sums are rounded after each product, those of CUDA may be fused, so that distances which differ in the
last bit only can change places; float64 points are measured in float64; an empty cloud raises ValueError.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, parallel, widen

_BUCKET = 64  # points


def furthest_point_sampling_forward(points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int,
                                    m: int) -> None:
    """Sample points that lie far from each other.

    Args:
        points_tensor: (B, N, 3).
        temp_tensor: (B, N), squared distance of each point to the sample so far (1e10 at first); written in place.
        idx_tensor: (B, M) int32, written in place. Beyond N samples, or when all distances are 0, it repeats point 0.
        b: B.
        n: N.
        m: M.

    Raises:
        ValueError: If there is no point to sample from, or the points are not (B, N, 3).
    """
    if points_tensor.shape[-1] != 3:
        raise ValueError(f'furthest_point_sample: points must be (B, N, 3), not {tuple(points_tensor.shape)}')
    if not _anything_to_do('furthest_point_sample', b, n, m):
        return
    points = widen(points_tensor)
    near = temp_tensor.to(points.dtype)
    if _numba.native(points):
        order = _along_a_curve(points)
        rank = tie_ranks(n, points.device).int()[order]
        sorted_points = points.gather(1, order[..., None].expand(-1, -1, 3)).transpose(1, 2)
        sorted_near = array(near.gather(1, order))
        bits = sorted_near.view(f'i{sorted_near.itemsize}')
        picked = torch.empty(idx_tensor.shape, dtype=torch.int64)
        parallel(_sample_numba, b, array(sorted_points), rank.numpy(), sorted_near, bits, picked.numpy())
        idx_tensor.copy_(order.gather(1, picked))
        temp_tensor.scatter_(1, order, torch.from_numpy(sorted_near).to(temp_tensor.dtype))
        return
    clouds = torch.arange(b, device=points.device)

    def distances(last: Tensor) -> Tensor:
        x, y, z = (points - points[clouds, last][:, None]).square().unbind(-1)
        return x + y + z

    _sample_torch(distances, near, idx_tensor)
    temp_tensor.copy_(near)


def furthest_point_sampling_with_dist_forward(points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int,
                                              n: int, m: int) -> None:
    """Sample points that lie far from each other by given distances.

    Args:
        points_tensor: (B, N, N) distances, of any kind; row i holds those to point i.
        temp_tensor: (B, N), distance of each point to the sample so far (1e10 at first); written in place.
        idx_tensor: (B, M) int32, written in place.
        b: B.
        n: N.
        m: M.

    Raises:
        ValueError: If there is no point to sample from.
    """
    if not _anything_to_do('furthest_point_sample_with_dist', b, n, m):
        return
    rows = widen(points_tensor)
    near = temp_tensor.to(rows.dtype)
    if _numba.native(rows):
        nearest, picked = array(near), torch.empty(idx_tensor.shape, dtype=torch.int32)
        parallel(_sample_rows_numba, b, array(rows), tie_ranks(n, rows.device).numpy(), nearest, picked.numpy())
        idx_tensor.copy_(picked)
        temp_tensor.copy_(torch.from_numpy(nearest))
        return
    clouds = torch.arange(b, device=rows.device)
    _sample_torch(lambda last: rows[clouds, last], near, idx_tensor)
    temp_tensor.copy_(near)


def tie_ranks(n: int, device: torch.device) -> Tensor:
    """Return (N,) int64, all different: of equally far points the one of lowest rank is taken. Point 0 has rank 0."""
    bits = min(10, int(math.log(n) / math.log(2)))
    index = torch.arange(n, device=device)
    thread = sum((index >> bit & 1) << (bits - 1 - bit) for bit in range(bits))
    return thread * -(-n >> bits) + (index >> bits)


def _anything_to_do(op: str, b: int, n: int, m: int) -> bool:
    """Whether there are samples to take; ValueError if there is nothing to take them from."""
    if b and m and not n:
        raise ValueError(f'{op}: cannot take {m} samples from a cloud without points; drop empty clouds first')
    return bool(b and m)


def _along_a_curve(points: Tensor) -> Tensor:
    """Order of the points along a Z-order curve through each cloud, (B, N) int64."""
    low = points.amin(1, keepdim=True)
    cells = ((points - low) * (1023 / (points.amax(1, keepdim=True) - low).amax(2, keepdim=True)))
    cells = cells.nan_to_num(0).clamp(0, 1023).long()
    for shift, mask in ((16, 0x30000ff), (8, 0x300f00f), (4, 0x30c30c3), (2, 0x9249249)):
        cells = (cells | cells << shift) & mask
    return (cells[..., 0] | cells[..., 1] << 1 | cells[..., 2] << 2).argsort(1)


def _sample_torch(distances: Callable[[Tensor], Tensor], near: Tensor, idx: Tensor) -> None:
    """Sampling for any device: ``distances`` of all points to the last one taken; writes to ``near`` and ``idx``."""
    rank = tie_ranks(near.shape[1], near.device)
    last = idx.new_zeros(len(idx), dtype=torch.int64)
    idx[:, 0] = 0
    for i in range(1, idx.shape[1]):
        d = distances(last)
        near.copy_(torch.where(d < near, d, near))
        best = near.amax(1, keepdim=True)
        last = torch.where(near == best, rank, rank.max() + 1).argmin(1) * (best[:, 0] > -1)
        idx[:, i] = last


@jit
def _sample_numba(start, stop, clouds, ranks, distances, bits, picked):
    """Sample clouds ``start`` to ``stop``: points (B, 3, N), ranks and distances (B, N), picked (B, M) positions.

    ``bits`` are the distances as integers: they have the same order, and their maximum needs no care for NaN.
    """
    n = clouds.shape[2]
    buckets = (n + _BUCKET - 1) // _BUCKET
    low, high = np.empty((3, buckets), clouds.dtype), np.empty((3, buckets), clouds.dtype)
    bound, furthest = np.empty(buckets, clouds.dtype), np.empty(buckets, clouds.dtype)
    leader, position = np.empty(buckets, np.int64), np.empty(ranks.max() + 1, np.int64)
    zero = clouds.dtype.type(0)
    for b in range(start, stop):
        cloud, rank, near = clouds[b], ranks[b], distances[b]
        position[rank] = np.arange(n)
        for q in range(buckets):
            begin, end = q * _BUCKET, min(n, q * _BUCKET + _BUCKET)
            for axis in range(3):
                low[axis, q], high[axis, q] = np.inf, -np.inf
                for i in range(begin, end):
                    low[axis, q] = min(cloud[axis, i], low[axis, q])
                    high[axis, q] = max(cloud[axis, i], high[axis, q])
            leader[q] = _leader(bits[b, begin:end], rank[begin:end])
            furthest[q] = near[position[leader[q]]]
        last = position[0]
        picked[b, 0] = last
        for j in range(1, picked.shape[1]):
            x, y, z = cloud[0, last], cloud[1, last], cloud[2, last]
            for q in range(buckets):
                dx = max(max(low[0, q] - x, x - high[0, q]), zero)
                dy = max(max(low[1, q] - y, y - high[1, q]), zero)
                dz = max(max(low[2, q] - z, z - high[2, q]), zero)
                bound[q] = dx * dx + dy * dy + dz * dz
            most, best = -np.inf, 0
            for q in range(buckets):
                if bound[q] < furthest[q]:
                    begin, end = q * _BUCKET, min(n, q * _BUCKET + _BUCKET)
                    _approach(cloud[:, begin:end], x, y, z, near[begin:end])
                    leader[q] = _leader(bits[b, begin:end], rank[begin:end])
                    furthest[q] = near[position[leader[q]]]
                if furthest[q] > most or (furthest[q] == most and leader[q] < best):
                    most, best = furthest[q], leader[q]
            last = position[best]
            picked[b, j] = last


@jit
def _approach(points, x, y, z, near):
    """Lower the distances of a bucket where (x, y, z) is nearer."""
    for i in range(len(near)):
        dx, dy, dz = points[0, i] - x, points[1, i] - y, points[2, i] - z
        d = dx * dx + dy * dy + dz * dz
        near[i] = d if d < near[i] else near[i]


@jit
def _leader(bits, rank):
    """Lowest rank among the furthest points of a bucket."""
    top = bits[0]
    for i in range(len(bits)):
        top = max(bits[i], top)
    none = np.iinfo(np.int32).max
    best = none
    for i in range(len(bits)):
        best = min(best, rank[i] if bits[i] == top else none)
    return best


@jit
def _sample_rows_numba(start, stop, rows, rank, distances, picked):
    """Sample clouds ``start`` to ``stop`` by rows (B, N, N) of distances; picked (B, M)."""
    n = rows.shape[2]
    for b in range(start, stop):
        near, last = distances[b], 0
        picked[b, 0] = 0
        for j in range(1, picked.shape[1]):
            row, most, best = rows[b, last], -1.0, 0
            for i in range(n):
                near[i] = row[i] if row[i] < near[i] else near[i]
                if near[i] > most or (near[i] == most and rank[i] < rank[best]):
                    most, best = near[i], i
            last = best
            picked[b, j] = last
