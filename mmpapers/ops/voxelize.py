"""Voxelization of point clouds, hard and dynamic, as in mmcv 2.1.0's CPU kernels.

Points outside the range, and points with a NaN or infinite coordinate, belong to no voxel; mmcv's CUDA kernel puts NaN
into voxel 0. Hard voxelization is deterministic also where mmcv is asked for its faster, random kernel.
"""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, parallel, widen


def dynamic_voxelize_forward(points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor,
                             NDim: int = 3) -> None:
    """Find the voxel of each point.

    Args:
        points: (N, C), x, y and z first, in metres.
        voxel_size: (NDim,) along x, y, z.
        coors_range: (2 * NDim,) lower, then upper bounds; the upper ones are outside.
        coors: (N, NDim) int32, written: z, y, x of the voxel, or -1 throughout.
        NDim: Number of coordinates.

    Raises:
        ValueError: If points have fewer columns than coordinates, or voxels or range are not positive.
    """
    coors.copy_(_voxel_of_point(points, voxel_size, coors_range, NDim)[0])


def hard_voxelize_forward(points: Tensor, voxel_size: Tensor, coors_range: Tensor, voxels: Tensor, coors: Tensor,
                          num_points_per_voxel: Tensor, voxel_num: Tensor, max_points: int, max_voxels: int,
                          NDim: int = 3, deterministic: bool = True) -> None:
    """Group points by voxel: first come, first served, among the voxels and among the points of each.

    Args:
        points: (N, C), x, y and z first.
        voxel_size: (NDim,) along x, y, z.
        coors_range: (2 * NDim,) lower, then upper bounds.
        voxels: (max_voxels, max_points, C), written where there are points.
        coors: (max_voxels, NDim) int32, written: z, y, x.
        num_points_per_voxel: (max_voxels,) int32, written.
        voxel_num: Number of voxels, a scalar, written.
        max_points: Points of a voxel that are kept.
        max_voxels: Voxels that are kept; points of the others are dropped.
        NDim: Number of coordinates.
        deterministic: Ignored; the result always is.

    Raises:
        ValueError: As :func:`dynamic_voxelize_forward`.
    """
    place, grid = _voxel_of_point(points, voxel_size, coors_range, NDim)
    kept = (place[:, 0] >= 0).nonzero()[:, 0]
    place = place[kept]
    key = place[:, 0].long()
    for axis in range(1, NDim):
        key = key * grid[NDim - 1 - axis] + place[:, axis]
    if _numba.native(points):
        voxel, rank, first = map(torch.from_numpy, _group_numba(key.numpy(), max_points, max_voxels))
    else:
        voxel, rank, first = _group_torch(key, max_points, max_voxels)
    stored = (rank >= 0).nonzero()[:, 0]
    voxel, rank = voxel[stored], rank[stored]
    voxels[voxel, rank] = points.detach()[kept[stored]]
    coors[:len(first)] = place[first]
    num_points_per_voxel[:len(first)] = torch.bincount(voxel, minlength=len(first)).int()
    voxel_num.fill_(len(first))


def _voxel_of_point(points: Tensor, voxel_size: Tensor, coors_range: Tensor, ndim: int) -> tuple[Tensor, list[int]]:
    """Voxel z, y, x of each point, (N, ndim) int32, or -1; and the size of the grid along x, y, z."""
    size, low, high = voxel_size.cpu().float(), *coors_range.cpu().float().split(ndim)
    grid = torch.floor((high - low) / size + 0.5)
    if not (size > 0).all() or not (grid >= 1).all() or not grid.isfinite().all():
        raise ValueError(f'voxelization: voxel_size {size.tolist()} and point_cloud_range {coors_range.tolist()} make '
                         f'a grid of {grid.tolist()}; sizes have to be positive and upper bounds larger')
    if points.dim() != 2 or points.shape[1] < ndim:
        raise ValueError(f'voxelization: points must be (N, {ndim} or more), but they are {tuple(points.shape)}; check '
                         'load_dim and use_dim of LoadPointsFromFile')
    if _numba.native(points):
        place = np.empty((len(points), ndim), np.int32)
        parallel(_place_numba, len(points), array(points), low.numpy(), size.numpy(), grid.numpy(), place, grain=20000)
        return torch.from_numpy(place), grid.long().tolist()
    device = points.device
    place = torch.floor((widen(points)[:, :ndim] - low.to(device)) / size.to(device))
    inside = ((place >= 0) & (place < grid.to(device))).all(1, keepdim=True)
    return torch.where(inside, place, -1).int().flip(1), grid.long().tolist()


def _group_torch(key: Tensor, max_points: int, max_voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of each point's voxel in the order of first points; which of its points it is, or -1 if it is dropped.

    The third result is the first point of each voxel that is kept.
    """
    distinct, inverse = key.unique(return_inverse=True)
    points = torch.arange(len(key), device=key.device)
    first = points.new_full((len(distinct),), len(key)).scatter_reduce_(0, inverse, points, 'amin')
    first, order = first.sort()
    voxel = order.argsort()[inverse]
    by_voxel = voxel.argsort(stable=True)
    total = torch.bincount(voxel, minlength=len(first))
    rank = torch.empty_like(voxel)
    rank[by_voxel] = points - (total.cumsum(0) - total)[voxel[by_voxel]]
    return voxel, rank.masked_fill((rank >= max_points) | (voxel >= max_voxels), -1), first[:max_voxels]


@jit
def _place_numba(start, stop, points, low, size, grid, place):
    """Voxels of points ``start`` to ``stop``."""
    ndim = len(size)
    for i in range(start, stop):
        for a in range(ndim):
            cell = np.floor((points[i, a] - low[a]) / size[a])
            if not 0 <= cell < grid[a]:
                place[i] = -1
                break
            place[i, ndim - 1 - a] = int(cell)


@jit
def _group_numba(key, max_points, max_voxels):
    """As :func:`_group_torch`, with a hash table."""
    slots = 16
    while slots < 2 * len(key):
        slots *= 2
    table, owner = np.full(slots, -1, np.int64), np.empty(slots, np.int64)
    voxel, rank = np.empty(len(key), np.int64), np.full(len(key), -1, np.int64)
    first, count = np.empty(max_voxels, np.int64), np.zeros(max_voxels, np.int64)
    voxels = 0
    for i in range(len(key)):
        slot = ((key[i] * 0x9E3779B97F4A7C1 >> 20) ^ key[i]) & (slots - 1)
        while table[slot] != key[i] and table[slot] != -1:
            slot = (slot + 1) & (slots - 1)
        if table[slot] == -1:
            if voxels == max_voxels:
                continue
            table[slot], owner[slot], first[voxels] = key[i], voxels, i
            voxels += 1
        voxel[i] = owner[slot]
        if count[voxel[i]] < max_points:
            rank[i] = count[voxel[i]]
            count[voxel[i]] += 1
    return voxel, rank, first[:voxels]
