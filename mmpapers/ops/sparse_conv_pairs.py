"""Which input voxels meet which output voxels in a sparse convolution (spconv 1.x's rulebook), as in mmcv 2.1.0.

A voxel's key is its place in the flattened grid. With the keys in order, the partners of all voxels under one offset of
the kernel are found in one pass over two sorted lists, without a grid or a hash table in memory: the grid of a KITTI
frame has 90 million cells for 20 thousand voxels.

Differences from mmcv: a dilated submanifold kernel is centred (mmcv's is off by ``(dilation - 1) * (kernel // 2)``, and
takes one side of it for the centre); the pairs of an offset are in the order of the voxels' keys, where mmcv's are in
the order in which CUDA threads finish; coordinates outside the grid are an error, where mmcv writes outside its memory.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import jit, parallel


def get_indice_pairs_3d_forward(indices: Tensor, batchSize: int, outSpatialShape: Sequence[int],
                                spatialShape: Sequence[int], kernelSize: Sequence[int], stride: Sequence[int],
                                padding: Sequence[int], dilation: Sequence[int], outPadding: Sequence[int],
                                _subM: int, _transpose: int) -> list[Tensor]:
    """Pair inputs with outputs for each offset of the kernel; the same function serves 2, 3 and 4 dimensions.

    Args:
        indices: (N, 1 + D) integers: sample of the batch and coordinates. Of equal rows the last stands for the voxel.
        batchSize: Samples.
        outSpatialShape: Size of the output grid, D numbers.
        spatialShape: Size of the input grid.
        kernelSize: Taps per axis; their product is K.
        stride: Ignored by submanifold convolution, like the padding.
        padding: Zeros around the input grid.
        dilation: Distance of the taps.
        outPadding: Is in ``outSpatialShape`` already.
        _subM: Whether outputs are where inputs are (submanifold convolution).
        _transpose: Whether the convolution is transposed.

    Returns:
        Coordinates of the outputs, (M, 1 + D) int32 in the order of the grid (``indices`` itself if ``_subM``); pairs
        (K, 2, N) int32 of input row and output row, -1 behind the last pair of an offset; number of pairs, (K,) int32.

    Raises:
        ValueError: If a voxel lies outside the grid or the batch.
    """
    _check(indices, batchSize, spatialShape)
    volume = prod(kernelSize)
    pairs = indices.new_full((volume, 2, len(indices)), -1, dtype=torch.int32)
    count = indices.new_zeros(volume, dtype=torch.int32)
    offsets = list(product(*map(range, kernelSize)))
    if _subM:
        _pair_submanifold(indices, spatialShape, kernelSize, dilation, offsets, pairs, count)
        return [indices, pairs, count]
    if _transpose:  # out = in * stride + tap * dilation - padding
        scale, divisor, shift = stride, [1] * len(stride), [
            [t * d - p for t, d, p in zip(tap, dilation, padding)] for tap in offsets]
    else:  # out = (in + padding - tap * dilation) / stride
        scale, divisor, shift = [1] * len(stride), stride, [
            [p - t * d for t, d, p in zip(tap, dilation, padding)] for tap in offsets]
    keys = _pair(indices, outSpatialShape, scale, divisor, shift, pairs, count)
    return [_coordinates(keys, outSpatialShape).int(), pairs, count]


def get_indice_pairs_3d_backward(indices: Tensor, gridOut: Tensor, batchSize: int, outSpatialShape: Sequence[int],
                                 spatialShape: Sequence[int], kernelSize: Sequence[int], stride: Sequence[int],
                                 padding: Sequence[int], dilation: Sequence[int], outPadding: Sequence[int],
                                 _subM: int, _transpose: int) -> list[Tensor]:
    """Do the same for tensors that bring their own grid, mmcv's scratch memory, which is neither needed nor touched.

    Args:
        indices: As in :func:`get_indice_pairs_3d_forward`, like the other arguments.
        gridOut: Ignored.
        batchSize: Samples.
        outSpatialShape: Size of the output grid.
        spatialShape: Size of the input grid.
        kernelSize: Taps per axis.
        stride: Of the convolution.
        padding: Of the convolution.
        dilation: Of the convolution.
        outPadding: Of the convolution.
        _subM: Whether outputs are where inputs are.
        _transpose: Whether the convolution is transposed.

    Returns:
        As :func:`get_indice_pairs_3d_forward`.
    """
    return get_indice_pairs_3d_forward(indices, batchSize, outSpatialShape, spatialShape, kernelSize, stride, padding,
                                       dilation, outPadding, _subM, _transpose)


get_indice_pairs_2d_forward = get_indice_pairs_4d_forward = get_indice_pairs_3d_forward
get_indice_pairs_2d_backward = get_indice_pairs_3d_backward


def _check(indices: Tensor, batch: int, shape: Sequence[int]) -> None:
    if indices.dim() != 2 or indices.shape[1] != 1 + len(shape):
        raise ValueError(f'sparse convolution: indices must be (N, {1 + len(shape)}), sample and coordinates, for a '
                         f'grid of {list(shape)}, but they are {tuple(indices.shape)}')
    if len(indices):
        low, high = indices.amin(0).tolist(), indices.amax(0).tolist()
        if min(low) < 0 or any(h >= s for h, s in zip(high, (batch, *shape))):
            raise ValueError(f'sparse convolution: coordinates (sample, z, y, x) run from {low} to {high}, but there '
                             f'are {batch} samples and the grid is {list(shape)}; sparse_shape has to be '
                             '(point_cloud_range / voxel_size) in the order z, y, x, and batch_size the number of '
                             'samples')


def _strides(shape: Sequence[int]) -> list[int]:
    """Distance in the flattened grid of neighbours along (sample, *axes)."""
    return [prod(shape[i:]) for i in range(len(shape) + 1)]


def _sorted_keys(indices: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keys in a grid of this shape in ascending order, and the rows that they belong to, both (N,) int64."""
    keys = (indices.long() * torch.tensor(_strides(shape), device=indices.device)).sum(1)
    return keys.sort(stable=True)


def _coordinates(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Sample and coordinates, (M, 1 + D), of keys."""
    columns = []
    for stride in _strides(shape):
        columns.append(keys // stride)
        keys = keys % stride
    return torch.stack(columns, 1)


def _pair_submanifold(indices: Tensor, shape: Sequence[int], kernel: Sequence[int], dilation: Sequence[int],
                      offsets: list[tuple[int, ...]], pairs: Tensor, count: Tensor) -> None:
    """Write ``pairs`` and ``count`` of a submanifold convolution."""
    # Cells between the rows of the grid make keys of neighbours outside it keys of no voxel.
    wide = [s + (k - 1) * d for s, k, d in zip(shape, kernel, dilation)]
    keys, rows = _sorted_keys(indices, wide)
    strides = _strides(wide)[1:]
    steps = [sum((t - k // 2) * d * s for t, k, d, s in zip(tap, kernel, dilation, strides)) for tap in offsets]
    if _numba.native(indices):
        parallel(_neighbours_numba, len(steps), keys.numpy(), rows.numpy(), np.array(steps), pairs.numpy(),
                 count.numpy())
        return
    for step, pair, number in zip(steps, pairs, count):
        at = (torch.searchsorted(keys, keys - step, right=True) - 1).clamp(min=0)
        found = keys[at] == keys - step
        n = int(found.sum())
        pair[:, :n] = torch.stack([rows[found], rows[at[found]]])
        number.fill_(n)


def _pair(indices: Tensor, shape: Sequence[int], scale: Sequence[int], divisor: Sequence[int],
          shift: list[list[int]], pairs: Tensor, count: Tensor) -> Tensor:
    """Write ``pairs`` and ``count`` where out = (in * scale + shift) / divisor; return the keys of the outputs."""
    _, rows = _sorted_keys(indices, (indices.amax(0)[1:] + 1).tolist() if len(indices) else shape)
    coordinates = indices[rows].long()
    if _numba.native(indices):
        targets = np.empty((len(shift), len(indices)), np.int64)
        parallel(_targets_numba, len(shift), coordinates.numpy(), rows.numpy(), np.array(scale), np.array(divisor),
                 np.array(shift), np.array(shape), pairs.numpy(), count.numpy(), targets)
        found = np.arange(len(indices)) < count.numpy()[:, None]
        keys = np.unique(targets[found])
        parallel(_rank_numba, len(shift), targets, count.numpy(), keys, pairs.numpy())
        return torch.from_numpy(keys)
    limit, strides = indices.new_tensor(shape), torch.tensor(_strides(shape), device=indices.device)
    all_targets = []
    for offset, pair, number in zip(shift, pairs, count):
        place = coordinates[:, 1:] * coordinates.new_tensor(scale) + coordinates.new_tensor(offset)
        out = torch.div(place, coordinates.new_tensor(divisor), rounding_mode='floor')
        kept = ((place % coordinates.new_tensor(divisor) == 0) & (out >= 0) & (out < limit)).all(1)
        n = int(kept.sum())
        pair[0, :n] = rows[kept]
        number.fill_(n)
        all_targets.append((torch.cat([coordinates[:, :1], out], 1)[kept] * strides).sum(1))
    keys, rank = torch.cat(all_targets).unique(return_inverse=True)
    for pair, part in zip(pairs, rank.split([len(t) for t in all_targets])):
        pair[1, :len(part)] = part
    return keys


@jit
def _neighbours_numba(start, stop, keys, rows, steps, pairs, count):
    """For each tap, find the voxel ``step`` before each voxel, the last of equal ones."""
    for k in range(start, stop):
        n = p = 0
        for i in range(len(keys)):
            wanted = keys[i] - steps[k]
            while p < len(keys) and keys[p] < wanted:
                p += 1
            if p == len(keys):
                break
            if keys[p] == wanted:
                while p + 1 < len(keys) and keys[p + 1] == wanted:
                    p += 1
                pairs[k, 0, n] = rows[i]
                pairs[k, 1, n] = rows[p]
                n += 1
        count[k] = n


@jit
def _targets_numba(start, stop, coordinates, rows, scale, divisor, shift, shape, pairs, count, targets):
    """For each tap, the inputs that reach an output and the outputs' keys, which ascend."""
    for k in range(start, stop):
        n = 0
        for i in range(len(rows)):
            key = coordinates[i, 0]
            inside = True
            for a in range(len(shape)):
                place = coordinates[i, a + 1] * scale[a] + shift[k, a]
                out = place // divisor[a]
                if place < 0 or out >= shape[a] or out * divisor[a] != place:
                    inside = False
                    break
                key = key * shape[a] + out
            if inside:
                pairs[k, 0, n] = rows[i]
                targets[k, n] = key
                n += 1
        count[k] = n


@jit
def _rank_numba(start, stop, targets, count, keys, pairs):
    """Row of the output of each pair: where its key is among all keys."""
    for k in range(start, stop):
        p = 0
        for n in range(count[k]):
            while keys[p] < targets[k, n]:
                p += 1
            pairs[k, 1, n] = p
