"""Dynamic scatter against a loop, its gradients, and coordinates of no voxel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops.scatter_points import DynamicScatter, dynamic_scatter
from torch import Tensor

from mmpapers.ops import _numba, scatter_points

pytestmark = pytest.mark.det3d
REDUCE = {'max': lambda x: x.amax(0), 'mean': lambda x: x.mean(0), 'sum': lambda x: x.sum(0)}


def loop_scatter(feats: Tensor, coors: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
    """Voxel features and coordinates by definition."""
    groups: dict[tuple, list] = {}
    for feat, place in zip(feats, map(tuple, coors.tolist())):
        if min(place) >= 0:
            groups.setdefault(place, []).append(feat)
    features = [REDUCE[reduce](torch.stack(groups[place])) for place in sorted(groups)]
    return (torch.stack(features) if features else feats[:0],
            coors.new_tensor(sorted(groups)).reshape(-1, coors.shape[1]))


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), reduce=st.sampled_from(sorted(REDUCE)), columns=st.integers(1, 4),
       seed=st.integers(0, 2**16), native=st.booleans())
def test_voxels_are_their_definition(count: int, reduce: str, columns: int, seed: int, native: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    coors = torch.randint(-1, 3, (count, columns), generator=generator, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numba, 'native', lambda tensor: native)
        features, places, point_to_voxel, number = scatter_points.dynamic_point_to_voxel_forward(feats, coors, reduce)
    expected, expected_places = loop_scatter(feats, coors, reduce)
    torch.testing.assert_close(features, expected)
    assert torch.equal(places, expected_places) and places.dtype == torch.int32
    assert point_to_voxel.dtype == number.dtype == torch.int32
    kept = point_to_voxel >= 0
    assert torch.equal(kept, (coors >= 0).all(1)) and torch.equal(places[point_to_voxel[kept].long()], coors[kept])
    assert torch.equal(number, torch.bincount(point_to_voxel[kept].long(), minlength=len(places)).int())


@pytest.mark.parametrize('reduce', sorted(REDUCE))
def test_gradcheck(path: str, reduce: str) -> None:
    feats = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    coors = torch.randint(-1, 2, (12, 3), dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda f: dynamic_scatter(f, coors, reduce)[0], feats)


def test_of_equal_maxima_the_first_point_takes_the_gradient(path: str) -> None:
    feats = torch.tensor([[1.0], [2], [2], [2]], requires_grad=True)
    dynamic_scatter(feats, torch.tensor([[0, 0], [0, 0], [0, 0], [-1, -1]]), 'max')[0].sum().backward()
    assert feats.grad.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize('reduce', sorted(REDUCE))
@pytest.mark.parametrize('coors', [torch.zeros(0, 3), -torch.ones(4, 3)], ids=['empty', 'outside'])
def test_no_point_in_a_voxel(path: str, reduce: str, coors: Tensor) -> None:
    feats = torch.randn(len(coors), 2, requires_grad=True)
    features, places = dynamic_scatter(feats, coors.int(), reduce)
    features.sum().backward()
    assert features.shape == (0, 2) and places.shape == (0, 3) and not feats.grad.any()


def test_nan_never_is_the_maximum(path: str) -> None:
    nan, inf = float('nan'), float('inf')
    feats = torch.tensor([[nan, nan], [3, nan], [-inf, 1]])
    features, _ = dynamic_scatter(feats, torch.zeros(3, 3, dtype=torch.int32), 'max')
    assert features.tolist() == [[3, 1]]
    features, _ = dynamic_scatter(feats[:1], torch.zeros(1, 3, dtype=torch.int32), 'max')
    assert features.tolist() == [[-inf, -inf]]


def test_coordinates_too_large_for_one_number(path: str) -> None:
    coors = torch.tensor([[2**31 - 1, 2**31 - 2, 5], [0, 2**31 - 2, 5], [2**31 - 1, 2**31 - 2, 5]], dtype=torch.int32)
    features, places = dynamic_scatter(torch.eye(3), coors, 'sum')
    assert places.tolist() == [coors[1].tolist(), coors[0].tolist()]
    assert features.tolist() == [[0, 1, 0], [1, 0, 1]]


def test_half_precision_is_the_rounded_float32(path: str) -> None:
    feats, coors = torch.randn(200, 2).bfloat16(), torch.randint(0, 2, (200, 3), dtype=torch.int32)
    out, single = (dynamic_scatter(f, coors, 'mean')[0] for f in (feats, feats.float()))
    assert out.dtype == torch.bfloat16 and torch.equal(out, single.bfloat16())


def test_layer_of_mmcv_over_a_batch() -> None:
    coors = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [1, -1, -1, -1]], dtype=torch.int32)
    layer = DynamicScatter([1, 1, 1], [0, 0, 0, 2, 2, 2], average_points=True)
    features, places = layer(torch.tensor([[1.0], [5], [3], [9]]), coors)
    assert features.tolist() == [[2], [5]] and places.tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize('feats, coors, reduce, word', [
    (torch.zeros(2, 1), torch.zeros(2, 3), 'min', "'min'"), (torch.zeros(2, 1), torch.zeros(3, 3), 'max', '(3, 3)')])
def test_malformed_arguments_are_named(feats: Tensor, coors: Tensor, reduce: str, word: str) -> None:
    with pytest.raises(ValueError, match='dynamic scatter') as error:
        scatter_points.dynamic_point_to_voxel_forward(feats, coors.int(), reduce)
    assert word in str(error.value)
