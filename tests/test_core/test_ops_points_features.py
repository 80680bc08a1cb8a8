"""Grouping, gathering, interpolation, PAConv's sums and chamfer distance against their definitions, with gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops
from torch import Tensor
from torch.autograd import gradcheck

from mmpapers.ops import _numba, assign_score_withk

pytestmark = pytest.mark.core


@pytest.fixture
def double() -> None:
    """mmcv's chamfer distance writes to tensors of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, dtype=torch.int32)


def test_grouping_takes_features_by_index(path: str) -> None:
    features, index = torch.randn(2, 3, 9), integers(9, 2, 5, 4)
    out = ops.grouping_operation(features, index)
    assert out.shape == (2, 3, 5, 4)
    for b in range(2):
        assert torch.equal(out[b], features[b][:, index[b].long()])
    assert torch.equal(ops.gather_points(features, index[..., 0].contiguous()), out[..., 0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_grouping_keeps_the_type(path: str, dtype: torch.dtype) -> None:
    features, index = torch.randn(1, 2, 6).to(dtype).requires_grad_(), integers(6, 1, 4, 3)
    out = ops.grouping_operation(features, index)
    out.sum().backward()
    assert out.dtype == features.grad.dtype == dtype
    assert torch.equal(out[0], features[0][:, index[0].long()])
    assert torch.equal(features.grad[0, 0], torch.bincount(index.flatten(), minlength=6).to(dtype))


def test_gradients_reach_every_point_as_often_as_it_was_taken(path: str) -> None:
    features, index = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True), integers(7, 2, 5, 4)
    weight = torch.rand(2, 5, 3, dtype=torch.float64)
    assert gradcheck(lambda f: ops.grouping_operation(f, index), features)
    assert gradcheck(lambda f: ops.gather_points(f, index[..., 0].contiguous()), features)
    assert gradcheck(lambda f: ops.three_interpolate(f, index[..., :3].contiguous(), weight), features)


def test_interpolation_is_a_weighted_sum(path: str) -> None:
    features, index, weight = torch.randn(2, 4, 9), integers(9, 2, 6, 3), torch.rand(2, 6, 3)
    out = ops.three_interpolate(features, index, weight)
    expected = sum(weight[:, None, :, k] * ops.gather_points(features, index[..., k].contiguous()) for k in range(3))
    torch.testing.assert_close(out, expected)
    half = ops.three_interpolate(features.half(), index, weight.half())
    torch.testing.assert_close(half, out.half(), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize('bad', [-1, 9])
def test_an_index_outside_the_cloud_is_said(bad: int) -> None:
    features, index = torch.randn(1, 2, 9), torch.tensor([[[0, 3, bad]]], dtype=torch.int32)
    for name, call in (('grouping_operation', lambda: ops.grouping_operation(features, index)),
                       ('gather_points', lambda: ops.gather_points(features, index[0])),
                       ('three_interpolate', lambda: ops.three_interpolate(features, index, torch.ones(1, 1, 3)))):
        with pytest.raises(IndexError, match=rf'{name}: indices must be in \[0, 9\).*{bad}'):
            call()


def test_nothing_to_take(path: str) -> None:
    features = torch.randn(2, 3, 5, requires_grad=True)
    out = ops.grouping_operation(features, integers(5, 2, 0, 4))
    assert out.shape == (2, 3, 0, 4)
    out.sum().backward()
    assert features.grad.eq(0).all()
    assert ops.gather_points(torch.randn(0, 3, 5), integers(5, 0, 2)).shape == (0, 3, 2)


def test_grouping_in_stacked_clouds(path: str) -> None:
    features = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    counts, groups = torch.tensor([6, 0, 4], dtype=torch.int32), torch.tensor([2, 1, 2], dtype=torch.int32)
    index = torch.tensor([[0, 5, 5], [1, 6, -1], [0, 0, 0], [3, 0, 1], [2, 2, 4]], dtype=torch.int32)
    out = ops.grouping_operation(features, index, counts, groups)
    rows = [[0, 5, 5], [1, None, None], [None] * 3, [9, 6, 7], [8, 8, None]]  # None: no such point in the cloud
    for group, row in enumerate(rows):
        for k, i in enumerate(row):
            assert torch.equal(out[group, :, k], features[i] if i is not None else torch.zeros(3).double())
    assert gradcheck(lambda f: ops.grouping_operation(f, index, counts, groups), features, fast_mode=True)
    with pytest.raises(ValueError, match=r'features_batch_cnt \[6, 0, 4\] must add up to 9 points'):
        ops.grouping_operation(features[:9], index, counts, groups)
    broken = features.detach().clone()
    broken[0] = torch.nan  # point 0 is not what an absent point is
    assert torch.equal(ops.grouping_operation(broken, index, counts, groups).isnan(), (index == 0)[:, None].expand_as(
        out) & torch.tensor([1, 0, 0, 0, 0]).bool()[:, None, None])
    nothing = ops.grouping_operation(features[:0], index, counts * 0, groups)
    assert nothing.eq(0).all() and nothing.shape == (5, 3, 3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), n=st.integers(1, 40), groups=st.integers(0, 9), samples=st.integers(1, 5))
def test_both_paths_of_grouping_agree(seed: int, n: int, groups: int, samples: int) -> None:
    torch.manual_seed(seed)
    features, index = torch.randn(2, 3, n), integers(n, 2, groups, samples)
    grad, results = torch.randn(2, 3, groups, samples), []
    for native in (_numba.native, lambda tensor: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_numba, 'native', native)
            leaf = features.clone().requires_grad_()
            out = ops.grouping_operation(leaf, index)
            results.append((out, *torch.autograd.grad(out, leaf, grad)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def paconv(n: int = 7, centres: int = 5, k: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Scores, features of points and of centres (3 matrices, 6 features), and neighbours of two clouds."""
    return [torch.rand(2, centres, k, 3, dtype=dtype), torch.randn(2, n, 3, 6, dtype=dtype),
            torch.randn(2, n, 3, 6, dtype=dtype), torch.randint(0, n, (2, centres, k))]


@pytest.mark.parametrize('aggregate', ['sum', 'avg', 'max'])
def test_scores_weigh_differences_to_the_centre(path: str, aggregate: str) -> None:
    scores, points, centers, index = paconv()
    index[0, 1, 2], index[1, 0, 1], index[1, 3, 0] = 7, -1, 9  # outside: without effect; the last one is a centre
    out = ops.assign_score_withk(scores, points, centers, index, aggregate)
    expected = torch.zeros(2, 6, 5, 4, dtype=torch.float64)
    for b, n, k in torch.cartesian_prod(*map(torch.arange, (2, 5, 4))).tolist():
        c, j = index[b, n, 0], index[b, n, k]
        if 0 <= j < 7 and 0 <= c < 7:
            expected[b, :, n, k] = (scores[b, n, k, :, None] * (points[b, j] - centers[b, c])).sum(0)
    torch.testing.assert_close(out, expected)


def test_scores_gradcheck(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assign_score_withk, '_CHUNK', 2 * 2 * 4 * 3 * 6)  # two centres at a time
    *leaves, index = paconv()
    index[0, 1, 2] = 7
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert gradcheck(lambda *x: ops.assign_score_withk(*x, index), leaves, fast_mode=True)


def test_scores_of_half_precision_and_of_no_centres(path: str) -> None:
    scores, points, centers, index = paconv()
    expected = ops.assign_score_withk(scores, points, centers, index)
    half = ops.assign_score_withk(scores.half(), points.half(), centers.half(), index)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), expected, atol=2e-2, rtol=2e-2)
    assert ops.assign_score_withk(*paconv(centres=0)).shape == (2, 6, 0, 4)


@pytest.mark.parametrize('n, m', [(9, 9), (1, 4), (5, 2)])
def test_chamfer_distance_is_its_definition(path: str, double: None, n: int, m: int) -> None:
    first, second = torch.randn(3, n, 2), torch.randn(3, m, 2)
    second[:, -1] = second[:, 0]  # a tie: the first counts
    distance = torch.cdist(first, second, compute_mode='donot_use_mm_for_euclid_dist').square()
    out = ops.chamfer_distance(first, second)
    torch.testing.assert_close(out[:2], (distance.amin(2), distance.amin(1)))
    assert torch.equal(out[2].long(), distance[..., :-1].argmin(2) if m > 1 else torch.zeros(3, n).long())
    assert torch.equal(out[3].long(), distance.argmin(1)) and out[2].dtype == torch.int32


def test_chamfer_distance_gradcheck(path: str, double: None) -> None:
    first, second = torch.randn(2, 5, 2, requires_grad=True), torch.randn(2, 4, 2, requires_grad=True)
    assert gradcheck(lambda a, b: ops.chamfer_distance(a, b)[:2], (first, second))


def test_chamfer_distance_of_far_points_and_bad_input(path: str) -> None:
    far = torch.tensor([[[3e5, 0], [float('nan'), 0]]])
    out = ops.chamfer_distance(far, torch.zeros(1, 3, 2))
    assert out[0].tolist() == [[1e10, 1e10]] and out[2].tolist() == [[0, 0]]
    assert ops.chamfer_distance(torch.zeros(0, 3, 2), torch.zeros(0, 4, 2))[0].shape == (0, 3)
    with pytest.raises(ValueError, match=r'points must be \(B, N, 2\), not \(1, 4, 3\)'):
        ops.chamfer_distance(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match='one of the two point sets is empty'):
        ops.chamfer_distance(torch.zeros(1, 4, 2), torch.zeros(1, 0, 2))
