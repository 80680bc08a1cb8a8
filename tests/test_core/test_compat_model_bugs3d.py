"""Models of mmdet3d that ask for CUDA or stop on ordinary input, and loaders that do not name a bad file, mended."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.models.data_preprocessors.data_preprocessor import Det3DDataPreprocessor
from mmdet3d.structures import Det3DDataSample, PointData
from torch import Tensor

from mmpapers.datasets.points import PointFileError

pytestmark = pytest.mark.det3d
LAYER = {'max_num_points': 4, 'point_cloud_range': [0, -4, -2, 8, 4, 2], 'voxel_size': [1, 1, 4],
         'max_voxels': (20, 30)}


def preprocessor(kind: str, **kwargs: object) -> Det3DDataPreprocessor:
    layer = LAYER | ({} if kind == 'hard' else {'max_num_points': -1})
    return Det3DDataPreprocessor(voxel=True, voxel_type=kind, voxel_layer=layer, **kwargs)


@pytest.mark.parametrize('training, most', [(True, None), (True, 12), (False, 12)])
@pytest.mark.parametrize('batch_first', [True, False])
def test_minkunets_voxels_are_those_of_cuda(training: bool, most: int | None, batch_first: bool,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, 'cuda', lambda tensor: tensor)
    model = preprocessor('minkunet', batch_first=batch_first, max_voxels=most).train(training)
    clouds, results = [torch.randn(40, 4) * 2, torch.randn(30, 4) * 2], []
    for voxelize in (Det3DDataPreprocessor.voxelize, Det3DDataPreprocessor.voxelize.__wrapped__):
        samples = [Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=torch.arange(len(c)))) for c in clouds]
        np.random.seed(0)
        results.append((voxelize(model, clouds, samples), samples))
    (ours, mine), (stock, theirs) = results
    assert set(ours) == set(stock) and all(torch.equal(ours[key], stock[key]) for key in ours)
    assert all(ours[key].dtype == stock[key].dtype for key in ours)
    for a, b in zip(mine, theirs):
        assert torch.equal(a.batch_idx, b.batch_idx) and torch.equal(a.point2voxel_map, b.point2voxel_map)
        assert torch.equal(a.gt_pts_seg.voxel_semantic_mask, b.gt_pts_seg.voxel_semantic_mask)


@pytest.mark.parametrize('kind', ['hard', 'dynamic'])
@pytest.mark.parametrize('empty', [torch.zeros(0, 4), torch.full((3, 4), float('nan')), torch.full((2, 4), 50.0)],
                         ids=['no points', 'nan', 'outside'])
def test_a_cloud_without_a_point_in_the_range_stays_a_sample(kind: str, empty: Tensor) -> None:
    full, model = torch.tensor([[1.0, 1, 0, 0.5], [2, 2, 0, 0.5]]), preprocessor(kind)
    with pytest.warns(UserWarning, match=f'a cloud of {len(empty)} points has none inside point_cloud_range'):
        voxels = model.voxelize([full, empty], None)
    assert voxels['coors'].tolist() == [[0, 0, 5, 1], [0, 0, 6, 2], [1, 0, 4, 4]]
    last = voxels['voxels'][-1].view(-1, 4)
    assert last[0].tolist() == [4, 0, 0, 0] and not last[1:].any()


@pytest.mark.parametrize('kind', ['hard', 'dynamic'])
def test_other_clouds_have_the_stock_voxels(kind: str) -> None:
    clouds, model = [torch.rand(30, 4) * 6, torch.rand(9, 4) * 6], preprocessor(kind)
    ours, stock = (voxelize(model, clouds, None) for voxelize in (
        Det3DDataPreprocessor.voxelize, Det3DDataPreprocessor.voxelize.__wrapped__))
    assert set(ours) == set(stock) and all(torch.equal(ours[key], stock[key]) for key in ours)


CLOUD = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)


def load(path: Path, data: bytes, **settings: object) -> dict:
    from mmdet3d.datasets.transforms import LoadPointsFromFile
    path.write_bytes(data)
    loader = LoadPointsFromFile(**dict(dict(coord_type='DEPTH', shift_height=True), **settings))
    return loader({'lidar_points': {'lidar_path': str(path)}})


@pytest.mark.parametrize(('data', 'message'), [
    (CLOUD.tobytes()[:-7], 'a.bin holds no whole number of float32 .*truncated'),
    (CLOUD.tobytes()[:-8], r'a.bin holds 58 numbers, no multiple of the 6 \(load_dim\) of a point'),
    (b'', 'a.bin: it holds no point, so there is no height'),
    (np.where(np.arange(60).reshape(10, 6) == 14, np.nan, CLOUD).astype(np.float32).tobytes(),
     'a.bin: 1 of 10 points are NaN or infinite, so there is no height')])
def test_a_bad_point_file_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(PointFileError, match=message):
        load(tmp_path / 'a.bin', data)


def test_good_point_files_load_as_before(tmp_path: Path) -> None:
    """Colours may be anything; LiDAR clouds may be empty or hold NaN, which the range filter takes out."""
    points = load(tmp_path / 'a.bin', np.hstack([CLOUD[:, :3], CLOUD[:, 3:] * np.nan]).tobytes())['points']
    floor = np.percentile(CLOUD[:, 2], 0.99)
    assert np.allclose(points.tensor, np.hstack([CLOUD[:, :3], CLOUD[:, 2:3] - floor]))
    lidar = dict(coord_type='LIDAR', shift_height=False)
    assert len(load(tmp_path / 'a.bin', b'', **lidar)['points']) == 0
    assert len(load(tmp_path / 'a.bin', (CLOUD * np.nan).tobytes(), **lidar)['points']) == 10
