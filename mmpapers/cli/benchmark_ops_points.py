"""Cases of the op benchmark: sampling, search, grouping and interpolation of points, each beside a plain torch form.

The plain forms are what one would write without the ops; autograd supplies their gradients.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .benchmark_ops_conv import Case


def plain_fps(points: Tensor, samples: int) -> Tensor:
    """Furthest points, (B, samples), one step a sample."""
    near = points.new_full(points.shape[:2], torch.inf)
    index = torch.zeros(len(points), samples, dtype=torch.int64)
    for i in range(1, samples):
        last = points.gather(1, index[:, i - 1, None, None].expand(-1, -1, 3))
        near = torch.minimum(near, (points - last).square().sum(2))
        index[:, i] = near.argmax(1)
    return index


def plain_fps_with_dist(distance: Tensor, samples: int) -> Tensor:
    """Furthest points by a distance matrix (B, N, N)."""
    near = distance.new_full(distance.shape[:2], torch.inf)
    index = torch.zeros(len(distance), samples, dtype=torch.int64)
    for i in range(1, samples):
        near = torch.minimum(near, distance[torch.arange(len(distance)), index[:, i - 1]])
        index[:, i] = near.argmax(1)
    return index


def plain_ball_query(low: float, high: float, count: int, points: Tensor, centres: Tensor) -> Tensor:
    """First ``count`` points of each ball, (B, M, count)."""
    n = points.shape[1]
    distance = torch.cdist(centres, points)
    order = torch.where((distance >= low) & (distance < high), torch.arange(n), n)
    first = order.topk(count, largest=False).values
    return torch.where(first < n, first, first[..., :1]) % n


def plain_knn(k: int, points: Tensor, centres: Tensor) -> Tensor:
    """Nearest points, (B, k, M)."""
    return torch.cdist(centres, points).topk(k, largest=False).indices.transpose(1, 2)


def plain_three_nn(centres: Tensor, points: Tensor) -> Tensor:
    """Distances to the three nearest points, (B, N, 3)."""
    return torch.cdist(centres, points).topk(3, largest=False).values


def plain_take(features: Tensor, index: Tensor) -> Tensor:
    """Features (B, C, ...) of points by index (B, ...)."""
    taken = features.gather(2, index.flatten(1).long()[:, None].expand(-1, features.shape[1], -1))
    return taken.unflatten(2, index.shape[1:])


def plain_interpolate(features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (B, C, N) of the features of three points."""
    return (plain_take(features, index) * weight[:, None]).sum(3)


def plain_assign(scores: Tensor, points: Tensor, centers: Tensor, index: Tensor) -> Tensor:
    """PAConv's weighted sums, (B, O, M, K)."""
    rows = index + torch.arange(len(points))[:, None, None] * points.shape[1]
    pair = points.flatten(0, 1)[rows] - centers.flatten(0, 1)[rows[..., :1]]
    return torch.einsum('bnkm,bnkmo->bonk', scores, pair)


def plain_chamfer(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances of the first points to the nearest of the second, and of these to the first, (B, N + M)."""
    distance = (first[:, :, None] - second[:, None]).square().sum(3)
    return torch.cat([distance.amin(2), distance.amin(1)], 1)


def plain_border(features: Tensor, boxes: Tensor, steps: int) -> Tensor:
    """Largest of ``steps + 1`` samples on each border, (N, C, K, 4)."""
    x1, y1, x2, y2 = boxes.unbind(2)
    height, width = features.shape[2:]
    t, out = torch.linspace(0, 1, steps + 1), []
    corners = ((x1, y1, x2, y1), (x1, y1, x1, y2), (x2, y2, x1, y2), (x2, y2, x2, y1))
    for part, (ax, ay, bx, by) in zip(features.chunk(4, 1), corners):
        x, y = (a[..., None] + (b - a)[..., None] * t for a, b in ((ax, bx), (ay, by)))
        grid = torch.stack([x / (width - 1), y / (height - 1)], -1) * 2 - 1
        out.append(F.grid_sample(part, grid, align_corners=True).amax(3))
    return torch.stack(out, 3)


def plain_correlation(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Products of shifted maps, (N, 2 * reach + 1, 2 * reach + 1, H, W)."""
    n, c, height, width = second.shape
    shifted = F.unfold(second.flatten(0, 1)[:, None], 2 * reach + 1, padding=reach)
    size = 2 * reach + 1
    return (first[:, :, None, None] * shifted.view(n, c, size, size, height, width)).sum(1)


def _cloud(batch: int, n: int) -> Tensor:
    """Points in a unit cube."""
    return torch.rand(batch, n, 3)


def _fps(n: int, samples: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import furthest_point_sample
    return plain_fps if plain else furthest_point_sample, (_cloud(1, n), samples)


def _fps_with_dist(n: int, samples: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import furthest_point_sample_with_dist
    points = _cloud(1, n)
    return plain_fps_with_dist if plain else furthest_point_sample_with_dist, (torch.cdist(points, points), samples)


def _ball(m: int, n: int, radius: float, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import ball_query
    return plain_ball_query if plain else ball_query, (0, radius, 32, _cloud(1, n), _cloud(1, m))


def _knn(m: int, n: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import knn
    return plain_knn if plain else knn, (16, _cloud(1, n), _cloud(1, m))


def _three_nn(n: int, m: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import three_nn
    return plain_three_nn if plain else lambda *args: three_nn(*args)[0], (_cloud(1, n), _cloud(1, m))


def _group(n: int, groups: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import grouping_operation
    index = torch.randint(0, n, (1, groups, 32), dtype=torch.int32)
    return plain_take if plain else grouping_operation, (_features(1, 64, n), index)


def _gather(n: int, m: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import gather_points
    index = torch.randint(0, n, (1, m), dtype=torch.int32)
    return plain_take if plain else gather_points, (_features(1, 64, n), index)


def _interpolate(n: int, m: int, plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import three_interpolate
    index, weight = torch.randint(0, m, (1, n, 3), dtype=torch.int32), torch.rand(1, n, 3)
    return plain_interpolate if plain else three_interpolate, (_features(1, 256, m), index, weight)


def _assign(plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import assign_score_withk
    index = torch.randint(0, 1024, (1, 256, 32))
    return plain_assign if plain else assign_score_withk, (
        _features(1, 256, 32, 16), _features(1, 1024, 16, 64), _features(1, 1024, 16, 64), index)


def _chamfer(plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import chamfer_distance
    return plain_chamfer if plain else lambda *args: torch.cat(chamfer_distance(*args)[:2], 1), (
        _features(512, 9, 2), _features(512, 9, 2))


def _border(plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import border_align
    low = torch.rand(1, 2000, 2) * 40
    return plain_border if plain else border_align, (
        _features(1, 256, 50, 84), torch.cat([low, low + torch.rand(1, 2000, 2) * 40], 2), 10)


def _correlation(plain: bool) -> tuple[Callable, Sequence]:
    from mmcv.ops import Correlation
    function = (lambda a, b: plain_correlation(a, b, 4)) if plain else Correlation(max_displacement=4)
    return function, (_features(1, 256, 24, 32), _features(1, 256, 24, 32))


def _features(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def _both(op: str, size: str, make: Callable[[bool], tuple[Callable, Sequence]]) -> list[Case]:
    """A case of the op and one of its plain torch form."""
    return [Case(op, size, lambda: make(False)), Case(op, f'{size}, plain torch', lambda: make(True))]


CASES = [
    *_both('furthest_point_sample', '16384 -> 4096', lambda plain: _fps(16384, 4096, plain)),
    *_both('furthest_point_sample', '40000 -> 2048', lambda plain: _fps(40000, 2048, plain)),
    *_both('furthest_point_sample_with_dist', '4096 -> 512', lambda plain: _fps_with_dist(4096, 512, plain)),
    *_both('ball_query', '4096 centres, 16384 points, radius 0.1', lambda plain: _ball(4096, 16384, 0.1, plain)),
    *_both('ball_query', '4096 centres, 1024 points, radius 0.2', lambda plain: _ball(4096, 1024, 0.2, plain)),
    *_both('knn', '16 nearest, 2048 centres, 8192 points', lambda plain: _knn(2048, 8192, plain)),
    *_both('three_nn', '16384 centres, 4096 points', lambda plain: _three_nn(16384, 4096, plain)),
    *_both('grouping_operation', '4096 groups of 32, 1x64x16384', lambda plain: _group(16384, 4096, plain)),
    *_both('gather_points', '4096 of 1x64x16384', lambda plain: _gather(16384, 4096, plain)),
    *_both('three_interpolate', '16384 from 1x256x4096', lambda plain: _interpolate(16384, 4096, plain)),
    *_both('assign_score_withk', '256 x 32 neighbours, 16 matrices, 64 features', _assign),
    *_both('chamfer_distance', '512 pairs of 9 points', _chamfer),
    *_both('border_align', '2000 boxes, 1x256x50x84', _border),
    *_both('correlation', '81 shifts, 1x256x24x32', _correlation),
]
