"""Furthest point sampling, ball query, k and three nearest points against their definitions in loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops
from torch import Tensor

from mmpapers.ops import _numba
from mmpapers.ops.furthest_point_sample import tie_ranks

pytestmark = pytest.mark.core

PATHS = ('numba', 'torch')


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the numba kernels and on the code for other devices."""
    if request.param == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    return request.param


def on_both(call: callable) -> list:
    """Results of a call on either path."""
    results = []
    for native in (_numba.native, lambda tensor: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_numba, 'native', native)
            results.append(call())
    return results


def squared(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared distances, rounded after each step."""
    x, y, z = ((points - centre)**2).T
    return x + y + z


def by_threads(distance: callable, n: int, samples: int) -> list[int]:
    """Furthest point sampling as a block of CUDA threads does it: strided maxima, then pairwise merging."""
    threads = 1 << min(10, n.bit_length() - 1)
    near, taken = np.full(n, 1e10), [0]
    for _ in range(1, samples):
        d = distance(taken[-1])
        near = np.where(d < near, d, near)
        best, index = [-1.0] * threads, [0] * threads
        for k in range(n):
            if near[k] > best[k % threads]:
                best[k % threads], index[k % threads] = near[k], k
        half = threads // 2
        while half:
            for t in range(half):
                if best[t + half] > best[t]:
                    best[t], index[t] = best[t + half], index[t + half]
            half //= 2
        taken.append(index[0])
    return taken


def clouds(seed: int, n: int, spread: int) -> Tensor:
    """(1, n, 3) points; on an integer grid, full of ties, unless ``spread`` is 0."""
    generator = torch.Generator().manual_seed(seed)
    if not spread:
        return torch.randn(1, n, 3, generator=generator)
    return torch.randint(0, spread, (1, n, 3), generator=generator).float()


CLOUDS = dict(seed=st.integers(0, 99), n=st.integers(1, 90), spread=st.integers(0, 4))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**CLOUDS, samples=st.integers(1, 40))
def test_furthest_points_are_those_of_the_kernels_threads(seed: int, n: int, spread: int, samples: int) -> None:
    points = clouds(seed, n, spread)
    array = points[0].numpy()
    expected = by_threads(lambda last: squared(array, array[last]), n, samples)
    for out in on_both(lambda: ops.furthest_point_sample(points, samples)):
        assert out.dtype == torch.int32 and out.tolist() == [expected]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(**CLOUDS, samples=st.integers(1, 20), shift=st.sampled_from([0, 0.5, 30]))
def test_furthest_points_by_given_distances(seed: int, n: int, spread: int, samples: int, shift: float) -> None:
    points = clouds(seed, n, spread)
    distance = torch.cdist(points, points) - shift  # below -1 no point beats point 0
    rows = distance[0].numpy()
    expected = by_threads(lambda last: rows[last], n, samples)
    for out in on_both(lambda: ops.furthest_point_sample_with_dist(distance, samples)):
        assert out.dtype == torch.int32 and out.tolist() == [expected]


def test_more_points_than_threads_and_several_buckets() -> None:
    points = torch.stack([clouds(1, 1500, 3)[0], clouds(2, 1500, 0)[0], torch.zeros(1500, 3)])
    arrays = points.numpy()
    expected = [by_threads(lambda last, a=a: squared(a, a[last]), 1500, 12) for a in arrays]
    for out in on_both(lambda: ops.furthest_point_sample(points, 12)):
        assert out.tolist() == expected
    numba, plain = on_both(lambda: ops.furthest_point_sample(points, 1200))
    assert torch.equal(numba, plain)
    assert len(set(numba[1].tolist())) == 1200


def test_ranks_of_ties_are_a_strict_order() -> None:
    for n in (1, 2, 3, 64, 1023, 1024, 5000):
        rank = tie_ranks(n, torch.device('cpu'))
        assert len(rank.unique()) == n and rank[0] == rank.min()
    assert tie_ranks(8, torch.device('cpu')).argsort().tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


def test_sampling_more_than_there_is_repeats_point_0(path: str) -> None:
    out = ops.furthest_point_sample(torch.randn(2, 3, 3), 6)
    assert sorted(out[0, :3].tolist()) == [0, 1, 2] and out[:, 3:].eq(0).all()
    assert ops.furthest_point_sample(torch.randn(2, 1, 3), 2).eq(0).all()


def test_distances_to_the_sample_are_left_in_temp(path: str) -> None:
    from mmpapers.ops.furthest_point_sample import furthest_point_sampling_forward
    points, temp, idx = torch.randn(2, 70, 3), torch.full((2, 70), 1e10), torch.zeros(2, 6, dtype=torch.int32)
    furthest_point_sampling_forward(points, temp, idx, 2, 70, 6)
    taken = points.gather(1, idx[:, :5, None].long().expand(-1, -1, 3))  # the last one is not looked from any more
    torch.testing.assert_close(temp, torch.cdist(points, taken).square().amin(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e30])
def test_points_that_are_nowhere_are_far_away(path: str, value: float) -> None:
    points = torch.randn(1, 200, 3)
    points[0, 7, 1] = value
    out = ops.furthest_point_sample(points, 5)[0].tolist()
    assert out[:2] == [0, 7]
    array = points[0].numpy()
    with np.errstate(invalid='ignore', over='ignore'):
        assert out == by_threads(lambda last: squared(array, array[last]), 200, 5)


def test_sampling_other_precisions(path: str) -> None:
    points = torch.randn(1, 300, 3).half()
    expected = ops.furthest_point_sample(points.float(), 20)
    for dtype in (torch.float16, torch.float64):
        assert torch.equal(ops.furthest_point_sample(points.to(dtype), 20), expected)


def test_sampling_from_nothing_is_said(path: str) -> None:
    with pytest.raises(ValueError, match='cannot take 4 samples from a cloud without points; drop empty clouds'):
        ops.furthest_point_sample(torch.zeros(2, 0, 3), 4)
    with pytest.raises(ValueError, match='_with_dist: cannot take 4 samples'):
        ops.furthest_point_sample_with_dist(torch.zeros(2, 0, 0), 4)
    with pytest.raises(ValueError, match=r'must be \(B, N, 3\), not \(1, 5, 4\)'):
        ops.furthest_point_sample(torch.zeros(1, 5, 4), 2)
    assert ops.furthest_point_sample(torch.zeros(0, 9, 3), 4).shape == (0, 4)


def ball(points: np.ndarray, centre: np.ndarray, low: float, high: float, count: int) -> list[int]:
    """Points of a ball by definition."""
    d2 = squared(points, centre)
    low, high = np.float32(low) * np.float32(low), np.float32(high) * np.float32(high)
    inside = [i for i, d in enumerate(d2) if d == 0 or low <= d < high][:count]
    return (inside + inside[:1] * count)[:count] or [0] * count


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**CLOUDS, low=st.sampled_from([0, 1, 1.5]), width=st.sampled_from([0.01, 0.5, 1, 9]), count=st.integers(1, 40))
def test_balls_are_their_definition(seed: int, n: int, spread: int, low: float, width: float, count: int) -> None:
    points, centres = clouds(seed, n, spread), clouds(seed + 1, 30, spread)
    expected = [ball(points[0].numpy(), c, low, low + width, count) for c in centres[0].numpy()]
    for out in on_both(lambda: ops.ball_query(low, low + width, count, points, centres)):
        assert out.dtype == torch.int32 and out.tolist() == [expected]


def test_balls_in_stacked_clouds(path: str) -> None:
    points, centres = torch.cat([clouds(0, 150, 3), clouds(1, 40, 3)], 1)[0], clouds(2, 50, 4)[0]
    counts, centre_counts = (torch.tensor(v, dtype=torch.int32) for v in ([150, 0, 40], [30, 2, 18]))
    out = ops.ball_query(0, 1.5, 6, points, centres, counts, centre_counts)
    assert out.shape == (50, 6) and out[30:32].tolist() == [[-1, 0, 0, 0, 0, 0]] * 2
    for row, centre in enumerate(centres.numpy()):
        own = points[:150] if row < 30 else points[150:150] if row < 32 else points[150:]
        hits = np.flatnonzero(squared(own.numpy(), centre) < 2.25).tolist()[:6]
        assert out[row].tolist() == ((hits + hits[:1] * 6)[:6] if hits else [-1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r'xyz_batch_cnt \[150, 0, 40\] must .* add up to 100'):
        ops.ball_query(0, 1.5, 6, points[:100], centres, counts, centre_counts)
    with pytest.raises(ValueError, match='center_xyz_batch_cnt .* for each of 3 clouds'):
        ops.ball_query(0, 1.5, 6, points, centres, counts, centre_counts[:2])


def test_balls_without_points_and_points_that_are_nowhere(path: str) -> None:
    centres = torch.zeros(1, 3, 3)
    assert ops.ball_query(0, 1, 4, torch.zeros(1, 0, 3), centres).eq(0).all()
    assert ops.ball_query(0, 1, 4, torch.ones(1, 5, 3), torch.zeros(1, 0, 3)).shape == (1, 0, 4)
    points = torch.zeros(1, 4, 3)
    points[0, 0, 0], points[0, 1, 2] = float('nan'), float('inf')
    assert ops.ball_query(0, 1, 3, points, centres).tolist() == [[[2, 3, 2]] * 3]
    one = torch.ones(1, 1, 3)
    assert ops.ball_query(0, 9, 3, one, one).tolist() == [[[0, 0, 0]]]
    assert ops.ball_query(0, 9, 3, one.half(), one.half()).tolist() == [[[0, 0, 0]]]


def heap(points: np.ndarray, centre: np.ndarray, k: int) -> list[tuple[float, int]]:
    """k nearest points through a max-heap whose root sinks while no larger than a child (the left one if equal)."""
    nodes = [(1e10, 0)] * k

    def sink(size: int) -> None:
        at = 0
        while 2 * at + 1 < size:
            child = max((c for c in (2 * at + 1, 2 * at + 2) if c < size), key=lambda c: (nodes[c][0], -c))
            if nodes[at][0] > nodes[child][0]:
                break
            nodes[at], nodes[child] = nodes[child], nodes[at]
            at = child

    for i, d in enumerate(squared(points, centre)):
        if d < nodes[0][0]:
            nodes[0] = (float(d), i)
            sink(k)
    for last in range(k - 1, 0, -1):
        nodes[0], nodes[last] = nodes[last], nodes[0]
        sink(last)
    return nodes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**CLOUDS, k=st.integers(1, 20))
def test_nearest_points_are_their_definition(seed: int, n: int, spread: int, k: int) -> None:
    points, centres = clouds(seed, n, spread), clouds(seed + 1, 20, spread)
    expected = [heap(points[0].numpy(), c, k) for c in centres[0].numpy()]
    numba, plain = on_both(lambda: ops.knn(k, points, centres).transpose(1, 2))
    assert numba.tolist() == [[[i for _, i in row] for row in expected]]
    d2 = (points[:, :, None] - centres[:, None]).square().sum(-1).transpose(1, 2)
    found = min(n, k)
    near = d2.gather(2, plain[..., :found].long())
    assert torch.equal(near, d2.sort(2).values[..., :found]) and plain[..., found:].eq(0).all()
    assert ((near[..., 1:] > near[..., :-1]) | (plain[..., 1:found] > plain[..., :found - 1])).all()


def test_nearest_points_with_transposed_input_of_themselves_and_of_far_ones(path: str) -> None:
    points = torch.randn(2, 40, 3)
    expected = torch.cdist(points, points, compute_mode='donot_use_mm_for_euclid_dist').topk(5, largest=False).indices
    assert torch.equal(ops.knn(5, points).long(), expected.transpose(1, 2))
    assert torch.equal(ops.knn(5, points.transpose(1, 2).contiguous(), None, True).long(), expected.transpose(1, 2))
    far = torch.tensor([[[2e5, 0, 0], [float('nan'), 0, 0], [float('inf'), 0, 0], [3.0, 0, 0]]])
    assert ops.knn(3, far, torch.zeros(1, 1, 3)).flatten().tolist() == [3, 0, 0]
    assert ops.knn(2, torch.zeros(1, 0, 3), torch.zeros(1, 1, 3)).flatten().tolist() == [0, 0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**CLOUDS, double=st.booleans())
def test_three_nearest_points_are_their_definition(seed: int, n: int, spread: int, double: bool) -> None:
    points, centres = clouds(seed, n, spread), clouds(seed + 1, 20, spread)
    if double:
        points, centres = points.double(), centres.double()
    none = 1e40 if double else np.inf
    for distance, index in on_both(lambda: ops.three_nn(centres, points)):
        assert index.dtype == torch.int32 and distance.dtype == points.dtype
        for row, centre in enumerate(centres[0].numpy()):
            d2 = squared(points[0].numpy(), centre)
            expected = sorted(range(n), key=lambda i, d2=d2: (d2[i], i))[:3]
            assert index[0, row].tolist() == (expected + [0, 0])[:3]
            square = torch.tensor([*d2[expected], *[none] * (3 - len(expected))], dtype=points.dtype)
            torch.testing.assert_close(distance[0, row], square.sqrt(), rtol=1e-6, atol=0)


def test_three_nearest_of_points_that_are_nowhere_and_of_none(path: str) -> None:
    points = torch.tensor([[[float('nan'), 0, 0], [1.0, 0, 0], [float('inf'), 0, 0]]])
    distance, index = ops.three_nn(torch.zeros(1, 1, 3), points)
    assert index.tolist() == [[[1, 0, 0]]] and distance.tolist() == [[[1, float('inf'), float('inf')]]]
    with pytest.raises(ValueError, match='three_nn: no points to search for the neighbours of 4 centres'):
        ops.three_nn(torch.zeros(1, 4, 3), torch.zeros(1, 0, 3))
    assert ops.three_nn(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))[0].shape == (1, 0, 3)


def test_blocks_and_threads_do_not_show() -> None:
    points, centres = torch.randn(2, 700, 3), torch.randn(2, 300, 3)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append([ops.furthest_point_sample(points, 100), ops.ball_query(0.1, 0.5, 16, points, centres),
                        ops.knn(9, points, centres), *ops.three_nn(centres, points)])
    torch.set_num_threads(2)
    plain = on_both(lambda: [ops.furthest_point_sample(points, 100), ops.ball_query(0.1, 0.5, 16, points, centres),
                             ops.knn(9, points, centres), *ops.three_nn(centres, points)])[1]
    for one, two, three in zip(*results, plain):
        assert torch.equal(one, two) and torch.equal(one, three)
