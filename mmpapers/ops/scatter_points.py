"""Reduction of the features of points to voxels (dynamic voxelization), as in mmcv 2.1.0's CUDA kernel."""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, widen


def dynamic_point_to_voxel_forward(feats: Tensor, coors: Tensor, reduce_type: str) -> list[Tensor]:
    """Reduce the features of the points that share a voxel.

    Args:
        feats: (N, C).
        coors: (N, D) integers; a point with a negative one belongs to no voxel.
        reduce_type: 'max' (NaN never wins, and -inf stands where there is nothing else), 'mean' or 'sum'.

    Returns:
        Features of the voxels, (M, C); their coordinates, (M, D), in ascending order; the voxel of each point, (N,)
        int32, -1 for none; and the number of points of each voxel, (M,) int32.

    Raises:
        ValueError: If the reduction is another one, or features and coordinates do not fit.
    """
    if reduce_type not in ('max', 'mean', 'sum'):
        raise ValueError(f"dynamic scatter: reduce_type must be 'max', 'mean' or 'sum', but is {reduce_type!r}")
    if feats.dim() != 2 or coors.dim() != 2 or len(feats) != len(coors):
        raise ValueError(f'dynamic scatter: features (N, C) and coordinates (N, D) of the same points are wanted, but '
                         f'they are {tuple(feats.shape)} and {tuple(coors.shape)}')
    kept = (coors >= 0).all(1)
    voxels, voxel, count = _unique_rows(coors[kept])
    point_to_voxel = coors.new_full((len(coors),), -1, dtype=torch.int32)
    point_to_voxel[kept] = voxel.int()
    x = widen(feats)[kept]
    out = x.new_full((len(voxels), x.shape[1]), float('-inf') if reduce_type == 'max' else 0)
    if _numba.native(feats):
        _reduce_numba(array(x), voxel.numpy(), reduce_type == 'max', out.numpy())
    elif reduce_type == 'max':
        out.scatter_reduce_(0, voxel[:, None].expand_as(x), torch.where(x.isnan(), float('-inf'), x), 'amax')
    else:
        out.index_add_(0, voxel, x)
    if reduce_type == 'mean':
        out /= count[:, None]
    return [out.to(feats.dtype), voxels, point_to_voxel, count.int()]


def dynamic_point_to_voxel_backward(grad_feats: Tensor, grad_reduced_feats: Tensor, feats: Tensor,
                                    reduced_feats: Tensor, coors_idx: Tensor, reduce_count: Tensor,
                                    reduce_type: str) -> None:
    """Write the gradient of the features; of equal maxima the first point takes it.

    Args:
        grad_feats: (N, C), written.
        grad_reduced_feats: (M, C).
        feats: (N, C).
        reduced_feats: (M, C), as returned by the forward pass, like the two that follow.
        coors_idx: (N,).
        reduce_count: (M,).
        reduce_type: 'max', 'mean' or 'sum'.
    """
    kept = (coors_idx >= 0).nonzero()[:, 0]
    voxel = coors_idx[kept].long()
    grad = widen(grad_reduced_feats)
    if reduce_type == 'mean':
        grad = grad / reduce_count[:, None]
    rows = grad[voxel]
    if reduce_type == 'max' and _numba.native(grad):
        rows.zero_()
        _first_maximum_numba(array(feats[kept]), voxel.numpy(), array(reduced_feats), array(grad), rows.numpy())
    elif reduce_type == 'max':
        place = torch.arange(len(kept), device=kept.device)[:, None].expand_as(rows)
        place = torch.where(feats[kept] == reduced_feats[voxel], place, len(kept))
        first = place.new_full(grad.shape, len(kept)).scatter_reduce_(0, voxel[:, None].expand_as(place), place, 'amin')
        rows = rows * (first[voxel] == place)
    grad_feats.zero_()
    grad_feats[kept] = rows.to(grad_feats.dtype)


def _unique_rows(coors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of non-negative integers in ascending order, the place of each row among them, and their counts."""
    if not len(coors):
        empty = coors.new_zeros(0, dtype=torch.long)
        return coors, empty, empty
    shape = coors.amax(0).long() + 1
    # As one number a row sorts many times faster, if the grid is not too large for one.
    if float(shape.double().prod()) >= 2**62:
        return coors.unique(dim=0, return_inverse=True, return_counts=True)
    key = coors[:, 0].long()
    for axis in range(1, coors.shape[1]):
        key = key * shape[axis] + coors[:, axis]
    key, order = key.sort(stable=True)
    new = torch.cat([key.new_ones(1, dtype=torch.bool), key[1:] != key[:-1]])
    place = torch.empty_like(order)
    place[order] = new.cumsum(0) - 1
    starts = new.nonzero()[:, 0]
    count = torch.diff(starts, append=starts.new_tensor([len(key)]))
    return coors[order[starts]], place, count


@jit
def _reduce_numba(feats, voxel, largest, out):
    """Maximum or sum of the points of each voxel."""
    for i in range(len(voxel)):
        row = out[voxel[i]]
        if largest:
            for c in range(len(row)):
                if feats[i, c] > row[c]:
                    row[c] = feats[i, c]
        else:
            for c in range(len(row)):
                row[c] += feats[i, c]


@jit
def _first_maximum_numba(feats, voxel, largest, grad, rows):
    """Give the gradient of each voxel to the first of its points that has the maximum."""
    taken = np.zeros(largest.shape, np.bool_)
    for i in range(len(voxel)):
        v = voxel[i]
        for c in range(feats.shape[1]):
            if feats[i, c] == largest[v, c] and not taken[v, c]:
                rows[i, c] = grad[v, c]
                taken[v, c] = True
