"""Features of points by index: grouping, gathering and interpolation between three, as in mmcv 2.1.0's CUDA kernels.

Differences: an index outside its cloud raises IndexError where mmcv's kernels read foreign memory; in stacked clouds,
where mmdet3d asks for point 0 of empty ones, it gives zeros and has no gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen


def group_points_forward(points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int,
                         npoints: int, nsample: int) -> None:
    """Take the features of every group's points.

    Args:
        points_tensor: (B, C, N).
        idx_tensor: (B, npoints, nsample) integers in [0, N).
        out_tensor: (B, C, npoints, nsample), written in place.
        b: B.
        c: C.
        n: N.
        npoints: Groups.
        nsample: Points of a group.

    Raises:
        IndexError: If an index is outside [0, N).
    """
    _take(points_tensor, idx_tensor, out_tensor, 'grouping_operation')


def group_points_backward(grad_out_tensor: Tensor, idx_tensor: Tensor, grad_points_tensor: Tensor, b: int, c: int,
                          n: int, npoints: int, nsample: int) -> None:
    """Add the gradient of every group to its points.

    Args:
        grad_out_tensor: (B, C, npoints, nsample).
        idx_tensor: (B, npoints, nsample).
        grad_points_tensor: (B, C, N), added to in place.
        b: B.
        c: C.
        n: N.
        npoints: Groups.
        nsample: Points of a group.
    """
    _give(grad_out_tensor, idx_tensor, grad_points_tensor)


def gather_points_forward(points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int,
                          npoints: int) -> None:
    """Take the features of points.

    Args:
        points_tensor: (B, C, N).
        idx_tensor: (B, npoints) integers in [0, N).
        out_tensor: (B, C, npoints), written in place.
        b: B.
        c: C.
        n: N.
        npoints: Points to take.

    Raises:
        IndexError: If an index is outside [0, N).
    """
    _take(points_tensor, idx_tensor, out_tensor, 'gather_points')


def gather_points_backward(grad_out_tensor: Tensor, idx_tensor: Tensor, grad_points_tensor: Tensor, b: int, c: int,
                           n: int, npoints: int) -> None:
    """Add the gradient of taken features to their points.

    Args:
        grad_out_tensor: (B, C, npoints).
        idx_tensor: (B, npoints).
        grad_points_tensor: (B, C, N), added to in place.
        b: B.
        c: C.
        n: N.
        npoints: Points taken.
    """
    _give(grad_out_tensor, idx_tensor, grad_points_tensor)


def stack_group_points_forward(features_tensor: Tensor, features_batch_cnt_tensor: Tensor, idx_tensor: Tensor,
                               idx_batch_cnt_tensor: Tensor, out_tensor: Tensor, b: int, c: int, m: int,
                               nsample: int) -> None:
    """Take the features of every group's points, in clouds of different sizes.

    Args:
        features_tensor: (N1 + N2 + ..., C).
        features_batch_cnt_tensor: Points of each cloud, (B,) int32.
        idx_tensor: (M1 + M2 + ..., nsample) indices within the group's cloud; zeros are taken where there is no such
            point.
        idx_batch_cnt_tensor: Groups of each cloud, (B,) int32.
        out_tensor: (M1 + M2 + ..., C, nsample), written in place.
        b: B.
        c: C.
        m: Groups of all clouds.
        nsample: Points of a group.

    Raises:
        ValueError: If the counts do not add up to the numbers of points and groups.
    """
    row, inside = _stacked_rows(idx_tensor, idx_batch_cnt_tensor, features_batch_cnt_tensor, len(features_tensor))
    if not len(features_tensor):
        out_tensor.zero_()
        return
    out_tensor.copy_(torch.where(inside[..., None], features_tensor[row], 0).transpose(1, 2))


def stack_group_points_backward(grad_out_tensor: Tensor, idx_tensor: Tensor, idx_batch_cnt_tensor: Tensor,
                                features_batch_cnt_tensor: Tensor, grad_features_tensor: Tensor, b: int, c: int,
                                m: int, n: int, nsample: int) -> None:
    """Add the gradient of every group to its points, in clouds of different sizes.

    Args:
        grad_out_tensor: (M1 + M2 + ..., C, nsample).
        idx_tensor: (M1 + M2 + ..., nsample).
        idx_batch_cnt_tensor: Groups of each cloud, (B,) int32.
        features_batch_cnt_tensor: Points of each cloud, (B,) int32.
        grad_features_tensor: (N1 + N2 + ..., C), added to in place.
        b: B.
        c: C.
        m: Groups of all clouds.
        n: Points of all clouds.
        nsample: Points of a group.
    """
    row, inside = _stacked_rows(idx_tensor, idx_batch_cnt_tensor, features_batch_cnt_tensor, n)
    grad = widen(grad_out_tensor).transpose(1, 2)[inside]  # (P, C)
    with accumulator(grad_features_tensor, grad.dtype) as total:
        total.index_add_(0, row[inside], grad)


def three_interpolate_forward(points_tensor: Tensor, idx_tensor: Tensor, weight_tensor: Tensor, out_tensor: Tensor,
                              b: int, c: int, m: int, n: int) -> None:
    """Add up the features of three points with weights.

    Args:
        points_tensor: (B, C, M).
        idx_tensor: (B, N, 3) integers in [0, M).
        weight_tensor: (B, N, 3).
        out_tensor: (B, C, N), written in place.
        b: B.
        c: C.
        m: M.
        n: N.

    Raises:
        IndexError: If an index is outside [0, M).
    """
    points = widen(points_tensor)
    index, weight = _checked(idx_tensor, m, 'three_interpolate').flatten(1), weight_tensor.detach().to(points.dtype)
    if _numba.native(points):
        with _written(out_tensor, points.dtype) as out:
            parallel(_mix_numba, b * c, array(points), index.numpy(), array(weight.flatten(1)), out.numpy())
        return
    near = points.gather(2, index.long()[:, None].expand(-1, c, -1)).view(b, c, n, 3) * weight[:, None]
    out_tensor.copy_(near[..., 0] + near[..., 1] + near[..., 2])


def three_interpolate_backward(grad_out_tensor: Tensor, idx_tensor: Tensor, weight_tensor: Tensor,
                               grad_points_tensor: Tensor, b: int, c: int, n: int, m: int) -> None:
    """Add the gradient to the three points that were interpolated between.

    Args:
        grad_out_tensor: (B, C, N).
        idx_tensor: (B, N, 3).
        weight_tensor: (B, N, 3).
        grad_points_tensor: (B, C, M), added to in place.
        b: B.
        c: C.
        n: N.
        m: M.
    """
    grad = widen(grad_out_tensor)
    weight = weight_tensor.detach().to(grad.dtype)
    if not _numba.native(grad):
        _give(grad[..., None] * weight[:, None], idx_tensor, grad_points_tensor)
        return
    with accumulator(grad_points_tensor, grad.dtype) as total:
        parallel(_unmix_numba, b * c, array(grad), array(idx_tensor.flatten(1)), array(weight.flatten(1)),
                 total.numpy())


def _take(points: Tensor, idx: Tensor, out: Tensor, op: str) -> None:
    """Write ``points[..., idx]`` of each cloud to ``out``."""
    index = _checked(idx, points.shape[2], op).flatten(1)
    if _numba.native(points):
        with _written(out, widen(points[:0]).dtype) as taken:
            parallel(_take_numba, points.shape[0] * points.shape[1], array(points), index.numpy(),
                     taken.flatten(2).numpy())
        return
    out.copy_(points.gather(2, index.long()[:, None].expand(-1, points.shape[1], -1)).view_as(out))


def _give(grad: Tensor, idx: Tensor, grad_points: Tensor) -> None:
    """Add ``grad`` (B, C, ...) to ``grad_points[..., idx]`` of each cloud."""
    grad, index = widen(grad).flatten(2), idx.flatten(1)
    with accumulator(grad_points, grad.dtype) as total:
        if _numba.native(grad):
            parallel(_give_numba, grad.shape[0] * grad.shape[1], array(grad), array(index), total.numpy())
        else:
            total.scatter_add_(2, index.long()[:, None].expand_as(grad), grad)


def _checked(idx: Tensor, n: int, op: str) -> Tensor:
    """Return contiguous indices; IndexError for those outside [0, n) (on other devices torch itself checks)."""
    if _numba.native(idx) and idx.numel():
        low, high = (int(v) for v in idx.aminmax())
        if low < 0 or high >= n:
            raise IndexError(f'{op}: indices must be in [0, {n}), the number of points, but range from {low} to {high}')
    return idx.contiguous()


def _stacked_rows(idx: Tensor, idx_counts: Tensor, counts: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Row of each index in the stacked points and whether its cloud has such a point, both (M, nsample)."""
    if sum(idx_counts.tolist()) != len(idx) or sum(counts.tolist()) != n or len(counts) != len(idx_counts):
        raise ValueError(f'grouping_operation: features_batch_cnt {counts.tolist()} must add up to {n} points and '
                         f'indices_batch_cnt {idx_counts.tolist()} to {len(idx)} groups, cloud by cloud')
    cloud = torch.repeat_interleave(torch.arange(len(counts), device=idx.device), idx_counts.long())
    start, size = (counts.cumsum(0) - counts)[cloud, None], counts[cloud, None]
    inside = (idx >= 0) & (idx < size)
    return torch.where(inside, idx + start, 0).long(), inside


@contextmanager
def _written(target: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Give a contiguous tensor of a type to write; what it holds ends up in ``target``."""
    fits = target.dtype == dtype and target.is_contiguous()
    result = target.detach() if fits else torch.empty(target.shape, dtype=dtype)
    yield result
    if not fits:
        target.copy_(result)


@jit
def _take_numba(start, stop, points, index, out):
    """Take for rows (cloud, channel) ``start`` to ``stop``."""
    for row in range(start, stop):
        b, c = divmod(row, points.shape[1])
        source, to, at = points[b, c], out[b, c], index[b]
        for i in range(len(at)):
            to[i] = source[at[i]]


@jit
def _give_numba(start, stop, grad, index, total):
    """Add for rows (cloud, channel) ``start`` to ``stop``."""
    for row in range(start, stop):
        b, c = divmod(row, total.shape[1])
        source, to, at = grad[b, c], total[b, c], index[b]
        for i in range(len(at)):
            to[at[i]] += source[i]


@jit
def _mix_numba(start, stop, points, index, weight, out):
    """Weighted sums for rows (cloud, channel) ``start`` to ``stop``."""
    for row in range(start, stop):
        b, c = divmod(row, points.shape[1])
        source, to, at, by = points[b, c], out[b, c], index[b], weight[b]
        for i in range(len(to)):
            j = 3 * i
            to[i] = by[j] * source[at[j]] + by[j + 1] * source[at[j + 1]] + by[j + 2] * source[at[j + 2]]


@jit
def _unmix_numba(start, stop, grad, index, weight, total):
    """Add weighted gradients for rows (cloud, channel) ``start`` to ``stop``."""
    for row in range(start, stop):
        b, c = divmod(row, total.shape[1])
        source, to, at, by = grad[b, c], total[b, c], index[b], weight[b]
        for i in range(len(at)):
            to[at[i]] += by[i] * source[i // 3]
