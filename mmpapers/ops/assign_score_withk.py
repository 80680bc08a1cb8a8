"""Weighted sums over a bank of neighbours' features (PAConv, Xu et al., CVPR 2021), as in mmcv 2.1.0's CUDA kernels.

For neighbour k of point n, with centre ``c = knn_idx[n, 0]`` and neighbour ``j = knn_idx[n, k]``::

    output[:, n, k] += sum over m of scores[n, k, m] * (points[j, m] - centers[c, m])

Differences: a pair whose neighbour or centre is outside [0, N) adds nothing; mmcv's kernels leave out other pairs, too,
or stop. Like theirs, ours always sum, whatever ``aggregate`` says.
"""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen

_FASTMATH = {'contract', 'reassoc'}
_CHUNK = 1 << 24  # gathered features at a time in the torch path; bounds its buffers


def assign_score_withk_forward(points: Tensor, centers: Tensor, scores: Tensor, knn_idx: Tensor, output: Tensor,
                               B: int, N0: int, N1: int, M: int, K: int, O: int, aggregate: int) -> None:  # noqa: E741
    """Add the weighted sums to ``output``.

    Args:
        points: (B, N0, M, O) features of the points, one for each matrix of the bank.
        centers: (B, N0, M, O) features of the points as centres.
        scores: (B, N1, K, M) weights.
        knn_idx: (B, N1, K) integers; the first neighbour is the centre.
        output: (B, O, N1, K), added to in place.
        B: Clouds.
        N0: Points.
        N1: Centres.
        M: Matrices of the bank.
        K: Neighbours.
        O: Features.
        aggregate: Not used.
    """
    points, centers, scores = widen(points), widen(centers), widen(scores)
    with accumulator(output, points.dtype) as total:
        if _numba.native(points):
            parallel(_sum_numba, B * N1, *map(array, (points, centers, scores, knn_idx)), total.numpy(), grain=16)
            return
        for rows in _chunks(B, N1, K * M * O):
            pair, _, inside, _ = _pairs(points, centers, knn_idx[:, rows])
            total[:, :, rows] += torch.einsum('bnkm,bnkmo->bonk', scores[:, rows] * inside[..., None], pair)


def assign_score_withk_backward(grad_out: Tensor, points: Tensor, centers: Tensor, scores: Tensor, knn_idx: Tensor,
                                grad_points: Tensor, grad_centers: Tensor, grad_scores: Tensor, B: int, N0: int,
                                N1: int, M: int, K: int, O: int, aggregate: int) -> None:  # noqa: E741
    """Add the gradients of the weighted sums.

    Args:
        grad_out: (B, O, N1, K).
        points: (B, N0, M, O).
        centers: (B, N0, M, O).
        scores: (B, N1, K, M).
        knn_idx: (B, N1, K).
        grad_points: (B, N0, M, O), added to in place.
        grad_centers: (B, N0, M, O), added to in place.
        grad_scores: (B, N1, K, M), added to in place.
        B: Clouds.
        N0: Points.
        N1: Centres.
        M: Matrices of the bank.
        K: Neighbours.
        O: Features.
        aggregate: Not used.
    """
    points, centers, scores = widen(points), widen(centers), widen(scores)
    grad = widen(grad_out).permute(0, 2, 3, 1).contiguous()  # (B, N1, K, O)
    dtype = points.dtype
    with (accumulator(grad_points, dtype) as to_points, accumulator(grad_centers, dtype) as to_centers,
          accumulator(grad_scores, dtype) as to_scores):
        if _numba.native(points):
            arrays = [array(t) for t in (grad, points, centers, scores, knn_idx)]
            parallel(_grad_scores_numba, B * N1, *arrays[:3], arrays[4], to_scores.numpy(), grain=16)
            parallel(_grad_features_numba, B * M, arrays[0], *arrays[3:], to_points.numpy(), to_centers.numpy())
            return
        for rows in _chunks(B, N1, K * M * O):
            pair, neighbor, inside, centre = _pairs(points, centers, knn_idx[:, rows])
            to_scores[:, rows] += torch.einsum('bnkmo,bnko->bnkm', pair, grad[:, rows] * inside[..., None])
            spread = torch.einsum('bnkm,bnko->bnkmo', scores[:, rows] * inside[..., None], grad[:, rows])
            to_points.view(-1, M, O).index_add_(0, neighbor.flatten(), spread.flatten(0, 2))
            to_centers.view(-1, M, O).index_add_(0, centre.flatten(), -spread.sum(2).flatten(0, 1))


def _chunks(clouds: int, centres: int, size: int) -> list[slice]:
    """Ranges of centres whose gathered features, ``size`` a centre, fit into a buffer."""
    step = max(1, _CHUNK // max(1, clouds * size))
    return [slice(i, i + step) for i in range(0, centres, step)]


def _pairs(points: Tensor, centers: Tensor, knn_idx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differences (B, N1, K, M, O), rows of the neighbours, whether pairs count (B, N1, K), and rows of the centres."""
    clouds, n = points.shape[:2]
    inside = (knn_idx >= 0) & (knn_idx < n)
    inside = inside & inside[..., :1]
    first = torch.arange(clouds, device=points.device)[:, None] * n
    neighbor = first[..., None] + torch.where(inside, knn_idx, 0)
    centre = neighbor[..., 0]
    pair = points.flatten(0, 1)[neighbor] - centers.flatten(0, 1)[centre][:, :, None]
    return pair, neighbor, inside, centre


@jit(fastmath=_FASTMATH)
def _sum_numba(start, stop, points, centers, scores, index, out):
    """Weighted sums for rows (cloud, centre) ``start`` to ``stop``."""
    _, features, rows, neighbors = out.shape
    n = points.shape[1]
    sums = np.empty((neighbors, features), out.dtype)
    for row in range(start, stop):
        b, r = divmod(row, rows)
        c = index[b, r, 0]
        sums[:] = 0
        for k in range(neighbors):
            j = index[b, r, k]
            if 0 <= j < n and 0 <= c < n:
                for m in range(points.shape[2]):
                    score, point, centre, total = scores[b, r, k, m], points[b, j, m], centers[b, c, m], sums[k]
                    for o in range(features):
                        total[o] += score * (point[o] - centre[o])
        for o in range(features):
            for k in range(neighbors):
                out[b, o, r, k] += sums[k, o]


@jit(fastmath=_FASTMATH)
def _grad_scores_numba(start, stop, grad, points, centers, index, grad_scores):
    """Gradient of the scores for rows (cloud, centre) ``start`` to ``stop``."""
    _, rows, neighbors, features = grad.shape
    n = points.shape[1]
    for row in range(start, stop):
        b, r = divmod(row, rows)
        c = index[b, r, 0]
        for k in range(neighbors):
            j = index[b, r, k]
            if 0 <= j < n and 0 <= c < n:
                for m in range(points.shape[2]):
                    g, point, centre = grad[b, r, k], points[b, j, m], centers[b, c, m]
                    total = grad_scores[b, r, k, m]
                    for o in range(features):
                        total += g[o] * (point[o] - centre[o])
                    grad_scores[b, r, k, m] = total


@jit(fastmath=_FASTMATH)
def _grad_features_numba(start, stop, grad, scores, index, grad_points, grad_centers):
    """Gradients of the features for (cloud, matrix) ``start`` to ``stop``."""
    _, rows, neighbors, features = grad.shape
    n, matrices = grad_points.shape[1:3]
    for item in range(start, stop):
        b, m = divmod(item, matrices)
        for r in range(rows):
            c = index[b, r, 0]
            for k in range(neighbors):
                j = index[b, r, k]
                if 0 <= j < n and 0 <= c < n:
                    g, score = grad[b, r, k], scores[b, r, k, m]
                    to_point, to_centre = grad_points[b, j, m], grad_centers[b, c, m]
                    for o in range(features):
                        to_point[o] += score * g[o]
                        to_centre[o] -= score * g[o]
