"""Which points lie near a centre: ball query, k nearest and three nearest points, as in mmcv 2.1.0's CUDA kernels.

Squared distances are ``dx * dx + dy * dy + dz * dz``, rounded after every step, in float32 or, for float64 points, in
float64. On the CPU a block of points is measured at a time, and looked at one by one only if one of them counts.

Differences: CUDA may fuse products and sums, so that a distance which equals the radius to the last bit can fall on
the other side; float16 is computed in float32; on other devices than the CPU the k nearest points at equal distances
are in the order of their index, on the CPU in the order in which mmcv's heap leaves them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import array, jit, parallel, widen

_BLOCK = 128  # points
_PAIRS = 1 << 24  # pairs of centres and points at a time in the torch path; bounds its buffers


def ball_query_forward(new_xyz_tensor: Tensor, xyz_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int,
                       min_radius: float, max_radius: float, nsample: int) -> None:
    """Find the first points, in index order, with ``min_radius <= distance < max_radius`` or at distance 0.

    Args:
        new_xyz_tensor: Centres, (B, M, 3).
        xyz_tensor: Points, (B, N, 3).
        idx_tensor: (B, M, nsample) int32, written in place; filled up with the first point found, and left as it is
            where none is.
        b: B.
        n: N.
        m: M.
        min_radius: Inner radius, in the points' unit.
        max_radius: Outer radius.
        nsample: Most points of a ball.
    """
    _ball_query(new_xyz_tensor, xyz_tensor, [m] * b, [n] * b, idx_tensor, min_radius, max_radius, False)


def stack_ball_query_forward(new_xyz_tensor: Tensor, new_xyz_batch_cnt: Tensor, xyz_tensor: Tensor,
                             xyz_batch_cnt: Tensor, idx_tensor: Tensor, max_radius: float, nsample: int) -> None:
    """Find the first points, in index order, with ``distance < max_radius`` in clouds of different sizes.

    Args:
        new_xyz_tensor: Centres of all clouds, (M1 + M2 + ..., 3).
        new_xyz_batch_cnt: Centres of each cloud, (B,) int32.
        xyz_tensor: Points of all clouds, (N1 + N2 + ..., 3).
        xyz_batch_cnt: Points of each cloud, (B,) int32.
        idx_tensor: (M1 + M2 + ..., nsample) int32, indices within the centre's cloud, written in place; filled up with
            the first point found; where none is, the first entry is -1 and the others are left.
        max_radius: Radius, in the points' unit.
        nsample: Most points of a ball.

    Raises:
        ValueError: If the counts do not add up to the numbers of centres and points.
    """
    centre_counts, point_counts = new_xyz_batch_cnt.tolist(), xyz_batch_cnt.tolist()
    for name, counts, rows in (('center_xyz_batch_cnt', centre_counts, len(new_xyz_tensor)),
                               ('xyz_batch_cnt', point_counts, len(xyz_tensor))):
        if sum(counts) != rows or len(counts) != len(point_counts):
            raise ValueError(f'ball_query: {name} {counts} must have an entry for each of {len(point_counts)} clouds '
                             f'and add up to {rows}')
    _ball_query(new_xyz_tensor, xyz_tensor, centre_counts, point_counts, idx_tensor, 0, max_radius, True)


def knn_forward(xyz_tensor: Tensor, new_xyz_tensor: Tensor, idx_tensor: Tensor, dist2_tensor: Tensor, b: int, n: int,
                m: int, nsample: int) -> None:
    """Find the nearest points, nearest first.

    Args:
        xyz_tensor: Points, (B, N, 3).
        new_xyz_tensor: Centres, (B, M, 3).
        idx_tensor: (B, M, nsample) int32, written in place; 0 beyond N points.
        dist2_tensor: Like ``idx_tensor``, squared distances, written in place; 1e10 beyond N points, which is also the
            largest distance that counts.
        b: B.
        n: N.
        m: M.
        nsample: Points to find.
    """
    index, d2 = _result(idx_tensor.shape, new_xyz_tensor)
    if _numba.native(xyz_tensor):
        _search(_knn_numba, new_xyz_tensor, xyz_tensor, [m] * b, [n] * b, index.numpy(), d2.numpy())
    else:
        d2.fill_(1e10)
        for rows, pairs in _distances(new_xyz_tensor, xyz_tensor, [m] * b, [n] * b):
            value, found = pairs.nan_to_num(torch.inf, torch.inf).sort(dim=1, stable=True)
            value, found = value[:, :nsample], found[:, :nsample]
            index[rows, :found.shape[1]] = torch.where(value < 1e10, found, 0).int()
            d2[rows, :found.shape[1]] = value.clamp(max=1e10)
    idx_tensor.copy_(index.view_as(idx_tensor))
    dist2_tensor.copy_(d2.view_as(dist2_tensor))


def three_nn_forward(unknown_tensor: Tensor, known_tensor: Tensor, dist2_tensor: Tensor, idx_tensor: Tensor, b: int,
                     n: int, m: int) -> None:
    """Find the three nearest points, nearest first; of equally near ones the first.

    Args:
        unknown_tensor: Centres, (B, N, 3).
        known_tensor: Points, (B, M, 3).
        dist2_tensor: (B, N, 3) squared distances, written in place; infinite beyond M points (1e40 in float64).
        idx_tensor: (B, N, 3) int32, written in place; 0 beyond M points.
        b: B.
        n: N.
        m: M.

    Raises:
        ValueError: If there are centres but no points.
    """
    if b * n and not m:
        raise ValueError(f'three_nn: no points to search for the neighbours of {n} centres; drop empty clouds first')
    index, d2 = _result(idx_tensor.shape, unknown_tensor)
    if _numba.native(known_tensor):
        _search(_three_nn_numba, unknown_tensor, known_tensor, [n] * b, [m] * b, index.numpy(), d2.numpy())
    else:
        d2.fill_(1e40 if d2.dtype == torch.float64 else torch.inf)
        for rows, pairs in _distances(unknown_tensor, known_tensor, [n] * b, [m] * b):
            order = torch.arange(m, device=pairs.device)
            pairs = pairs.nan_to_num(torch.inf, torch.inf)
            for i in range(min(3, m)):
                value = pairs.amin(1, keepdim=True)
                found = torch.where(pairs == value, order, m).amin(1, keepdim=True)
                valid = value < d2[rows, i:i + 1]
                index[rows, i:i + 1] = torch.where(valid, found, 0).int()
                d2[rows, i:i + 1] = torch.where(valid, value, d2[rows, i:i + 1])
                pairs.scatter_(1, found, torch.inf)
    dist2_tensor.copy_(d2.view_as(dist2_tensor))
    idx_tensor.copy_(index.view_as(idx_tensor))


def _ball_query(centres: Tensor, points: Tensor, centre_counts: list[int], point_counts: list[int], idx: Tensor,
                min_radius: float, max_radius: float, stacked: bool) -> None:
    """Both ball queries. Radii are squared in float32, as in the kernels."""
    low, high = np.float32(min_radius)**2, np.float32(max_radius)**2
    found = idx.reshape(-1, idx.shape[-1])
    if not idx.numel():
        return
    if _numba.native(points):
        found = array(found)
        _search(_ball_query_numba, centres, points, centre_counts, point_counts, low, high, stacked, found)
        found = torch.from_numpy(found)
    else:
        for rows, d2 in _distances(centres, points, centre_counts, point_counts):
            inside = d2 < float(high)
            if not stacked:
                inside = inside & (d2 >= float(low)) | (d2 == 0)
            n = d2.shape[1]
            first = torch.where(inside, torch.arange(n, device=d2.device), n)
            first = first.topk(min(n, found.shape[1]), largest=False).values
            first = torch.cat([first, first.new_full((len(first), found.shape[1] - first.shape[1]), n)], 1).int()
            first = torch.where(first < n, first, first[:, :1])
            none = found[rows].clone()
            if stacked:
                none[:, 0] = -1
            found[rows] = torch.where(first < n, first, none)
    idx.copy_(found.view_as(idx))


def _result(shape: torch.Size, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and squared distances of each centre, a row each, both 0."""
    d2 = torch.zeros(shape, dtype=widen(centres).dtype, device=centres.device).reshape(-1, shape[-1])
    return torch.zeros_like(d2, dtype=torch.int32), d2


def _search(kernel: callable, centres: Tensor, points: Tensor, centre_counts: list[int], point_counts: list[int],
            *args: object) -> None:
    """Call a kernel for all centres: theirs and the points' coordinates, and the range of points of each centre."""
    end = np.cumsum(point_counts)
    begin = np.repeat(end - point_counts, centre_counts)
    centres, points = widen(centres).reshape(-1, 3), widen(points).reshape(-1, 3)
    parallel(kernel, len(centres), array(centres), array(points.T), begin, np.repeat(end, centre_counts), *args,
             grain=64)


def _distances(centres: Tensor, points: Tensor, centre_counts: list[int],
               point_counts: list[int]) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances, (R, N), of R centres (the slice says which) to the N points of their cloud."""
    centres, points = widen(centres).reshape(-1, 3), widen(points).reshape(-1, 3)
    start = first = 0
    for m, n in zip(centre_counts, point_counts):
        step = max(1, _PAIRS // max(n, 1))
        for row in range(start, start + m, step):
            rows = slice(row, min(row + step, start + m))
            x, y, z = (centres[rows, None] - points[first:first + n]).square_().unbind(-1)
            yield rows, x + y + z
        start, first = start + m, first + n


@jit
def _measure(centre, points, begin, end, near):
    """Squared distances of points ``begin`` to ``end`` into ``near``."""
    xs, ys, zs = points[0, begin:end], points[1, begin:end], points[2, begin:end]
    x, y, z = centre[0], centre[1], centre[2]
    for i in range(len(xs)):
        dx, dy, dz = x - xs[i], y - ys[i], z - zs[i]
        near[i] = dx * dx + dy * dy + dz * dz


@jit
def _any_below(near, count, limit):
    """Whether one of the first ``count`` distances is below a limit."""
    hits = 0
    for i in range(count):
        hits += near[i] < limit
    return hits > 0


@jit
def _ball_query_numba(start, stop, centres, points, begin, end, low, high, stacked, idx):
    """Ball query for centres ``start`` to ``stop``."""
    near = np.empty(_BLOCK, centres.dtype)
    wanted = idx.shape[1]
    limit = max(high, np.float32(1e-45))
    for row in range(start, stop):
        count, block = 0, begin[row]
        while block < end[row] and count < wanted:
            size = min(_BLOCK, end[row] - block)
            _measure(centres[row], points, block, block + size, near)
            if _any_below(near, size, limit):
                for i in range(size):
                    inside = near[i] < high
                    if not stacked:
                        inside = (inside and near[i] >= low) or near[i] == 0
                    if inside and count < wanted:
                        idx[row, count] = block + i - begin[row]
                        count += 1
            block += size
        if count == 0 and stacked:
            idx[row, 0] = -1
        if count:
            idx[row, count:] = idx[row, 0]


@jit
def _knn_numba(start, stop, centres, points, begin, end, idx, d2):
    """k nearest points for centres ``start`` to ``stop``; a row of ``d2`` and ``idx`` is a heap, the furthest first."""
    near = np.empty(_BLOCK, centres.dtype)
    wanted = idx.shape[1]
    for row in range(start, stop):
        distance, index = d2[row], idx[row]
        distance[:], index[:] = 1e10, 0
        for block in range(begin[row], end[row], _BLOCK):
            size = min(_BLOCK, end[row] - block)
            _measure(centres[row], points, block, block + size, near)
            if _any_below(near, size, distance[0]):
                for i in range(size):
                    if near[i] < distance[0]:
                        distance[0], index[0] = near[i], block + i - begin[row]
                        _sink(distance, index, wanted)
        for last in range(wanted - 1, 0, -1):
            distance[0], distance[last] = distance[last], distance[0]
            index[0], index[last] = index[last], index[0]
            _sink(distance, index, last)


@jit
def _sink(distance, index, size):
    """Let the root of a heap sink below children that are not nearer; of two equal children it follows the left."""
    at, child = 0, 1
    while child < size:
        if child + 1 < size and distance[child + 1] > distance[child]:
            child += 1
        if distance[at] > distance[child]:
            return
        distance[at], distance[child] = distance[child], distance[at]
        index[at], index[child] = index[child], index[at]
        at, child = child, 2 * child + 1


@jit
def _three_nn_numba(start, stop, centres, points, begin, end, idx, d2):
    """Three nearest points for centres ``start`` to ``stop``."""
    near = np.empty(_BLOCK, centres.dtype)
    for row in range(start, stop):
        best, found = d2[row], idx[row]
        best[:], found[:] = 1e40, 0
        for block in range(begin[row], end[row], _BLOCK):
            size = min(_BLOCK, end[row] - block)
            _measure(centres[row], points, block, block + size, near)
            if not _any_below(near, size, best[2]):
                continue
            for i in range(size):
                if near[i] < best[2]:
                    at = 2
                    while at > 0 and near[i] < best[at - 1]:
                        best[at], found[at] = best[at - 1], found[at - 1]
                        at -= 1
                    best[at], found[at] = near[i], block + i - begin[row]
