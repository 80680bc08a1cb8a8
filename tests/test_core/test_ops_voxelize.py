"""Voxelization against what compiled mmcv made of the same points, against a loop, and on points that are not fine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops.voxelize import Voxelization, voxelization
from torch import Tensor

from mmpapers.ops import _numba

pytestmark = pytest.mark.det3d

RECORDED = np.load(Path(__file__).parents[1] / 'data/parity/ops_voxel.npz')
SETTINGS = json.loads(str(RECORDED['settings']))
RANGE = tuple(RECORDED['range'].tolist())
NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize('case', sorted(SETTINGS))
@pytest.mark.parametrize('deterministic', [True, False])
def test_compiled_mmcv_made_the_same_voxels(path: str, case: str, deterministic: bool) -> None:
    size, max_points, max_voxels = SETTINGS[case]
    points = torch.from_numpy(RECORDED[f'{case}/points'])
    results = voxelization(points, size, RANGE, max_points, max_voxels, deterministic)
    for name, result in zip(('voxels', 'coors', 'num'), results):
        expected = torch.from_numpy(RECORDED[f'{case}/{name}'])
        assert result.dtype == expected.dtype and torch.equal(result, expected)
    assert torch.equal(voxelization(points, size, RANGE, -1, -1), torch.from_numpy(RECORDED[f'{case}/dynamic']))


def loop_voxelize(points: Tensor, size: tuple, max_points: int, max_voxels: int) -> list:
    """Coordinates and points of each voxel, by definition."""
    grid = [round((RANGE[a + 3] - RANGE[a]) / size[a]) for a in range(3)]
    voxels: dict[tuple, list] = {}
    for point in points:
        cell = [float((point[a] - torch.tensor(RANGE[a])) / torch.tensor(size[a])) for a in range(3)]
        if not all(0 <= c < g for c, g in zip(cell, grid)):
            continue
        place = tuple(int(c) for c in reversed(cell))
        if place in voxels or len(voxels) < max_voxels:
            members = voxels.setdefault(place, [])
            if len(members) < max_points:
                members.append(point.tolist())
    return list(voxels.items())


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 60), max_points=st.integers(1, 4), max_voxels=st.integers(1, 12),
       seed=st.integers(0, 2**16), native=st.booleans())
def test_voxels_are_their_definition(count: int, max_points: int, max_voxels: int, seed: int, native: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 4, generator=generator) * 8 - 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numba, 'native', lambda tensor: native)
        voxels, coors, num = voxelization(points, (1.0, 1.5, 1.0), RANGE, max_points, max_voxels)
    expected = loop_voxelize(points, (1.0, 1.5, 1.0), max_points, max_voxels)
    assert list(map(tuple, coors.tolist())) == [place for place, _ in expected]
    assert num.tolist() == [len(members) for _, members in expected]
    for voxel, (_, members) in zip(voxels, expected):
        assert voxel[:len(members)].tolist() == members and not voxel[len(members):].any()


@pytest.mark.parametrize('points', [
    torch.zeros(0, 4), torch.full((5, 4), NAN), torch.full((5, 4), INF), torch.full((5, 4), -INF),
    torch.full((5, 4), 1e30), torch.tensor([[4.0, 3, 1, 0]])], ids=['empty', 'nan', 'inf', '-inf', 'far', 'bound'])
def test_clouds_without_a_point_in_the_range_have_no_voxels(path: str, points: Tensor) -> None:
    layer = Voxelization([1, 1, 1], RANGE, max_num_points=3, max_voxels=(10, 20))
    voxels, coors, num = layer(points)
    assert voxels.shape == (0, 3, 4) and coors.shape == (0, 3) and num.shape == (0,)
    assert (voxelization(points, (1, 1, 1), RANGE, -1, -1) == -1).all()


def test_features_that_are_not_finite_are_kept(path: str) -> None:
    voxels, _, _ = voxelization(torch.tensor([[0.0, 0, 0, NAN]]), (1, 1, 1), RANGE, 2, 4)
    assert voxels[0, 0, 3].isnan()


def test_half_precision_points(path: str) -> None:
    points = (torch.rand(50, 4) * 6 - 2).half()
    coors = voxelization(points, (0.5, 0.5, 0.5), RANGE, -1, -1)
    assert torch.equal(coors, voxelization(points.float(), (0.5, 0.5, 0.5), RANGE, -1, -1))


@pytest.mark.parametrize('points, size, words', [
    (torch.zeros(4, 2), (1, 1, 1), ['(4, 2)', 'use_dim']),
    (torch.zeros(4, 4), (1, 0, 1), ['voxel_size', 'positive']),
    (torch.zeros(4, 4), (1, 20, 1), ['point_cloud_range', 'grid']),
])
def test_settings_that_make_no_grid_are_named(points: Tensor, size: tuple, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        voxelization(points, size, RANGE, 5, 10)
    assert 'voxelization' in str(error.value) and all(word in str(error.value) for word in words)
