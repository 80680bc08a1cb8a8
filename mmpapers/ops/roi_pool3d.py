"""Pooling of the points in 3D boxes: RoIAware (Shi et al., PAMI 2020) and RoIPoint (PointRCNN), as in mmcv 2.1.0.

Few points lie in each box, so everything behind the test of :mod:`.points_in_boxes` works on the list of pairs of a box
and a point inside, sorted by box and then by point.
"""

import torch
from torch import Tensor

from ._numba import accumulator, widen
from .points_in_boxes import box_rows, inside, to_local


def roiaware_pool3d_forward(rois: Tensor, pts: Tensor, pts_feature: Tensor, argmax: Tensor, pts_idx_of_voxels: Tensor,
                            pooled_features: Tensor, pool_method: int) -> None:
    """Divide boxes into voxels and pool the features of the points in each.

    Args:
        rois: (R, 7), x, y, z of the centre of the bottom, sizes, heading.
        pts: (M, 3).
        pts_feature: (M, C).
        argmax: (R, X, Y, Z, C) int32; with the maximum written: the point it is from, -1 without one.
        pts_idx_of_voxels: (R, X, Y, Z, K) int32 zeros, written: a count n, then the indices of the first n points of
            the voxel, K - 1 at most.
        pooled_features: (R, X, Y, Z, C) zeros, written where there are points.
        pool_method: 0 for the maximum, of equals the first, NaN left out; 1 for the average.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if rois.ndim != 2 or rois.shape[1] != 7 or pts.shape[1:] != (3,) or pts_feature.shape[:1] != pts.shape[:1]:
        raise ValueError(f'roiaware_pool3d: needs rois (R, 7), pts (M, 3) and pts_feature (M, C), but got '
                         f'{tuple(rois.shape)}, {tuple(pts.shape)} and {tuple(pts_feature.shape)}')
    capacity, channels = pts_idx_of_voxels.shape[-1], pts_feature.shape[-1]
    voxel, point = _voxels(rois, pts, pts_idx_of_voxels.shape[1:4])
    order = voxel.argsort(stable=True)
    voxel, point = voxel[order], point[order]
    filled, group, count = torch.unique_consecutive(voxel, return_inverse=True, return_counts=True)
    rank = torch.arange(len(voxel), device=voxel.device) - (count.cumsum(0) - count)[group]
    held = rank < capacity - 1
    voxel, point, group, rank = voxel[held], point[held], group[held], rank[held]
    count = count.clamp(max=capacity - 1)
    table = pts_idx_of_voxels.view(-1, capacity)
    table[voxel, rank + 1] = point.to(table.dtype)
    table[filled, 0] = count.to(table.dtype)
    values = widen(pts_feature)[point]
    if pool_method == 1:
        total = values.new_zeros(len(filled), channels).index_add_(0, group, values)
        pooled_features.view(-1, channels)[filled] = (total / count[:, None]).to(pooled_features.dtype)
        return
    values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    index = group[:, None].expand_as(values)
    largest = values.new_full((len(filled), channels), -torch.inf).scatter_reduce_(0, index, values, 'amax')
    none = len(pts)
    first = torch.where((values == largest[group]) & (values > -torch.inf), point[:, None], none)
    best = first.new_full(largest.shape, none).scatter_reduce_(0, index, first, 'amin')
    argmax.fill_(-1)
    argmax.view(-1, channels)[filled] = torch.where(best == none, -1, best).to(argmax.dtype)
    pooled_features.view(-1, channels)[filled] = torch.where(best == none, 0, largest).to(pooled_features.dtype)


def roiaware_pool3d_backward(pts_idx_of_voxels: Tensor, argmax: Tensor, grad_out: Tensor, grad_in: Tensor,
                             pool_method: int) -> None:
    """Add the gradient with respect to the features to ``grad_in``.

    Args:
        pts_idx_of_voxels: (R, X, Y, Z, K), as written by the forward pass.
        argmax: (R, X, Y, Z, C), as written by the forward pass.
        grad_out: (R, X, Y, Z, C).
        grad_in: (M, C), added to in place.
        pool_method: 0 for the maximum, 1 for the average.
    """
    channels, capacity = grad_out.shape[-1], pts_idx_of_voxels.shape[-1]
    grad = widen(grad_out).reshape(-1, channels)
    with accumulator(grad_in, grad.dtype) as total:
        if pool_method == 0:
            best = argmax.reshape(-1, channels)
            filled = (best >= 0).any(1).nonzero()[:, 0]
            best, grad = best[filled].long(), grad[filled]
            total.scatter_add_(0, best.clamp(min=0), torch.where(best >= 0, grad, 0))
            return
        table = pts_idx_of_voxels.reshape(-1, capacity)
        filled = table[:, 0].nonzero()[:, 0]
        table = table[filled]
        group, rank = (torch.arange(1, capacity, device=table.device) <= table[:, :1]).nonzero(as_tuple=True)
        share = grad[filled] / table[:, :1]
        total.index_add_(0, table[group, rank + 1].long(), share[group])


def roipoint_pool3d_forward(xyz: Tensor, boxes3d: Tensor, pts_feature: Tensor, pooled_features: Tensor,
                            pooled_empty_flag: Tensor) -> None:
    """Take the first S points in each box, repeated in turn where there are fewer.

    Args:
        xyz: (B, N, 3).
        boxes3d: (B, M, 7), x, y, z of the centre of the bottom, sizes, heading.
        pts_feature: (B, N, C).
        pooled_features: (B, M, S, 3 + C), written where a box has points: coordinates and features.
        pooled_empty_flag: (B, M) int32 zeros; set to 1 where a box has none.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if (xyz.ndim != 3 or xyz.shape[2] != 3 or boxes3d.ndim != 3 or boxes3d.shape[2] != 7
            or pts_feature.shape[:2] != xyz.shape[:2] or len(boxes3d) != len(xyz)):
        raise ValueError(f'roipoint_pool3d: needs points (B, N, 3), features (B, N, C) and boxes (B, M, 7), but got '
                         f'{tuple(xyz.shape)}, {tuple(pts_feature.shape)} and {tuple(boxes3d.shape)}')
    samples = torch.arange(pooled_features.shape[2], device=xyz.device)
    for points, boxes, features, pooled, empty in zip(xyz, boxes3d, pts_feature, pooled_features, pooled_empty_flag):
        box, point = inside(boxes, points).nonzero(as_tuple=True)
        count = box.bincount(minlength=len(boxes))
        empty[count == 0] = 1
        filled = count.nonzero()[:, 0]
        start = (count.cumsum(0) - count)[filled, None]
        chosen = point[start + samples % count[filled, None].clamp(max=max(1, len(samples)))]
        pooled[filled] = torch.cat([points, features], 1).detach()[chosen].to(pooled.dtype)


def _voxels(rois: Tensor, pts: Tensor, sizes: torch.Size) -> tuple[Tensor, Tensor]:
    """Flat index of the voxel, and the point, of each pair of a box and a point inside, by box and then by point."""
    box, point = inside(rois, pts).nonzero(as_tuple=True)
    rois, pts = widen(rois), widen(pts)[point]
    x, y = to_local(box_rows(rois)[box], pts)
    rois = rois[box]
    voxel = box
    for at, extent, size in ((x + rois[:, 3] / 2, rois[:, 3], sizes[0]), (y + rois[:, 4] / 2, rois[:, 4], sizes[1]),
                             (pts[:, 2] - rois[:, 2], rois[:, 5], sizes[2])):
        cell = (at / (extent / size)).nan_to_num(0).clamp(0, size - 1).long()
        voxel = voxel * size + cell
    return voxel, point
