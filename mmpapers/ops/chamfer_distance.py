"""Nearest points of two sets in the plane and their squared distances, as in mmcv 2.1.0's CUDA kernels.

Difference: mmcv's kernels read past the end of a set of odd size and compare with what they find there; ours do not.
"""

import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen

_FARTHEST = 1e10  # larger squared distances count as this one, to point 0


def chamfer_distance_forward(xyz1: Tensor, xyz2: Tensor, dist1: Tensor, dist2: Tensor, idx1: Tensor,
                             idx2: Tensor) -> None:
    """Find the nearest point of the other set for every point.

    Args:
        xyz1: (B, N, 2).
        xyz2: (B, M, 2).
        dist1: (B, N) squared distances, written in place.
        dist2: (B, M), likewise.
        idx1: (B, N) int32, index of the nearest point in ``xyz2``, written in place.
        idx2: (B, M) int32, in ``xyz1``.

    Raises:
        ValueError: If the points are not in the plane, or one of the sets is empty.
    """
    for points, others in ((xyz1, xyz2), (xyz2, xyz1)):
        if points.shape[-1] != 2:
            raise ValueError(f'chamfer_distance: points must be (B, N, 2), not {tuple(points.shape)}; for 3D points '
                             'there is mmdet3d.models.losses.chamfer_distance')
        if others.numel() and not points.numel():
            raise ValueError('chamfer_distance: one of the two point sets is empty; leave such samples out')
    _nearest(widen(xyz1), widen(xyz2), dist1, idx1)
    _nearest(widen(xyz2), widen(xyz1), dist2, idx2)


def chamfer_distance_backward(xyz1: Tensor, xyz2: Tensor, idx1: Tensor, idx2: Tensor, graddist1: Tensor,
                              graddist2: Tensor, gradxyz1: Tensor, gradxyz2: Tensor) -> None:
    """Add the gradients of both directions to the points at either end.

    Args:
        xyz1: (B, N, 2).
        xyz2: (B, M, 2).
        idx1: (B, N), as written by the forward pass.
        idx2: (B, M), likewise.
        graddist1: (B, N).
        graddist2: (B, M).
        gradxyz1: (B, N, 2), added to in place.
        gradxyz2: (B, M, 2), added to in place.
    """
    xyz1, xyz2 = widen(xyz1), widen(xyz2)
    with accumulator(gradxyz1, xyz1.dtype) as grad1, accumulator(gradxyz2, xyz2.dtype) as grad2:
        for own, other, idx, grad, to_own, to_other in ((xyz1, xyz2, idx1, graddist1, grad1, grad2),
                                                        (xyz2, xyz1, idx2, graddist2, grad2, grad1)):
            index = idx.long()[..., None].expand(-1, -1, 2)
            pull = 2 * grad.to(own.dtype)[..., None] * (own - other.gather(1, index))
            to_own += pull
            to_other.scatter_add_(1, index, -pull)


def _nearest(points: Tensor, others: Tensor, dist: Tensor, idx: Tensor) -> None:
    """Write the squared distance of every point to the nearest of the others, and its index."""
    if _numba.native(points):
        best, found = points.new_empty(dist.shape), torch.empty(idx.shape, dtype=torch.int32)
        parallel(_nearest_numba, len(points), array(points), array(others), best.numpy(), found.numpy(), grain=8)
    else:
        x, y = (points[:, :, None] - others[:, None]).square_().unbind(-1)
        d = (x + y).nan_to_num(_FARTHEST, _FARTHEST).clamp(max=_FARTHEST)  # (B, N, M)
        best = d.amin(2) if d.numel() else d.new_zeros(dist.shape)
        order = torch.arange(d.shape[2], device=d.device)
        found = torch.where(d == best[..., None], order, len(order)).amin(2) if d.numel() else torch.zeros_like(idx)
    dist.copy_(best)
    idx.copy_(found)


@jit
def _nearest_numba(start, stop, points, others, best, found):
    """Nearest points for sets ``start`` to ``stop``."""
    for b in range(start, stop):
        for i in range(points.shape[1]):
            x, y = points[b, i]
            least, at = points.dtype.type(_FARTHEST), 0
            for j in range(others.shape[1]):
                dx, dy = others[b, j, 0] - x, others[b, j, 1] - y
                d = dx * dx + dy * dy
                if d < least:
                    least, at = d, j
            best[b, i], found[b, i] = least, at
