"""Conceptual clouds in a pipeline: joined, augmented alike, sampled in pairs, and parted."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import Pack3DDetInputs
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints
from mmengine.registry import TRANSFORMS, init_default_scope

from mmpapers.datasets.toytown.generate import generate
from mmpapers.datasets.toytown.kitti_plan import KittiPlan
from mmpapers.datasets.toytown.lidar import Lidar
from mmpapers.projects.ago_net.transforms import LoadConceptualPoints, PointsInImage, SplitConceptualPoints

pytestmark = pytest.mark.det3d
AREA = [-60, -60, -5, 60, 60, 5]
MARK = 77.  # intensity of the one point that is in both clouds


def write(path: Path, points: np.ndarray) -> Path:
    """A file of points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype(np.float32).tofile(path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A cloud of 50 points and a conceptual one of 80 that share a marked point, and an object of both kinds."""
    rng = np.random.default_rng(0)
    clouds = [np.c_[rng.uniform(-20, 20, (count, 2)), rng.uniform(-1, 1, count), rng.random(count)]
              for count in (50, 80)]
    clouds[0][17] = clouds[1][63] = 5, 4, .5, MARK
    path = write(tmp_path / 'training/velodyne/000003.bin', clouds[0])
    write(tmp_path / 'conceptual/velodyne/000003.bin', clouds[1])
    for base, count in (('', 6), ('conceptual', 25)):
        write(tmp_path / base / 'gt_database/3_Car_0.bin', np.c_[rng.uniform(-.9, .9, (count, 3)), np.full(count, 9.)])
    entry = dict(name='Car', path='gt_database/3_Car_0.bin', image_idx=3, gt_idx=0, num_points_in_gt=6, difficulty=0,
                 box3d_lidar=np.array([-10, 10, -1, 4, 2, 1.5, 0.], np.float32))
    (tmp_path / 'dbinfos.pkl').write_bytes(pickle.dumps(dict(Car=[entry])))
    return path


def run(pair: Path, *steps: dict) -> dict:
    """Put a sample through a pipeline that loads, augments, packs and parts."""
    init_default_scope('mmdet3d')
    root = pair.parents[2]
    results = dict(lidar_points=dict(lidar_path=str(pair)), gt_labels_3d=np.array([0]),
                   box_type_3d=LiDARInstance3DBoxes,
                   gt_bboxes_3d=LiDARInstance3DBoxes(torch.tensor([[5., 4., -.5, 4., 2., 1.5, .2]])))
    for step in (dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
                 dict(type='mmpapers.LoadConceptualPoints', conceptual_prefix=str(root / 'conceptual/velodyne')),
                 *steps,
                 dict(type='PointShuffle'),
                 dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
                 dict(type='mmpapers.SplitConceptualPoints')):
        results = TRANSFORMS.build(step)(results)
    return results


def test_both_clouds_come_out_as_they_are(pair: Path) -> None:
    results = run(pair)
    perceptual, conceptual = results['inputs']['points'], results['data_samples'].conceptual_points
    for found, path in ((perceptual, pair), (conceptual, pair.parents[2] / 'conceptual/velodyne/000003.bin')):
        expected = np.fromfile(path, np.float32).reshape(-1, 4)
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_augmentation_is_the_same_for_both(pair: Path) -> None:
    flipped = set()
    for seed in range(4):
        np.random.seed(seed)
        results = run(pair, dict(type='RandomFlip3D', flip_ratio_bev_horizontal=.5),
                      dict(type='GlobalRotScaleTrans', rot_range=[-.8, .8], scale_ratio_range=[.9, 1.1],
                           translation_std=[.5, .5, .1]),
                      dict(type='PointsRangeFilter', point_cloud_range=AREA))
        marks = [cloud[cloud[:, 3] == MARK] for cloud in (results['inputs']['points'],
                                                          results['data_samples'].conceptual_points)]
        assert len(marks[0]) == len(marks[1]) == 1 and torch.equal(*marks)
        assert not torch.allclose(marks[0][0, :3], torch.tensor([5., 4., .5]))
        flipped.add(bool(results['data_samples'].metainfo['pcd_horizontal_flip']))
    assert flipped == {True, False}


def test_sampled_objects_come_in_pairs_and_clear_their_place_in_both(pair: Path) -> None:
    root = pair.parents[2]
    np.random.seed(0)
    sampler = dict(
        data_root=str(root), info_path=str(root / 'dbinfos.pkl'), rate=1., prepare={}, classes=['Car'],
        sample_groups=dict(Car=5), points_loader=dict(
            type='mmpapers.LoadConceptualPoints', conceptual_prefix=str(root / 'conceptual/gt_database')))
    results = run(pair, dict(type='ObjectSample', db_sampler=sampler))
    assert len(results['data_samples'].gt_instances_3d.labels_3d) == 2
    for cloud, count in ((results['inputs']['points'], 6), (results['data_samples'].conceptual_points, 25)):
        new = cloud[:, 3] == 9
        assert new.sum() == count and cloud.shape[1] == 4
        assert ((cloud[new, 0] + 10).abs() <= 1).all() and ((cloud[new, 1] - 10).abs() <= 1).all()
        rest = cloud[~new]
        inside = ((rest[:, 0] + 10).abs() <= 2) & ((rest[:, 1] - 10).abs() <= 1) & (rest[:, 2].abs() <= 1)
        assert not (inside & (rest[:, 2] >= -1) & (rest[:, 2] <= .5)).any()


def test_missing_clouds_and_wrong_places_are_said(pair: Path) -> None:
    with pytest.raises(FileNotFoundError, match='build_scenes CONFIG FOLDER'):
        LoadConceptualPoints('nowhere')(dict(lidar_points=dict(lidar_path=str(pair))))
    results = dict(points=LiDARPoints(torch.zeros(2, 5), points_dim=5), lidar_points=dict(lidar_path=str(pair)))
    with pytest.raises(ValueError, match='have 5 numbers here, those of'):
        LoadConceptualPoints(str(pair.parents[2] / 'conceptual/velodyne'))(results)
    with pytest.raises(ValueError, match='Pack3DDetInputs'):
        SplitConceptualPoints()(results)
    assert Pack3DDetInputs(keys=['points'])(results)['inputs']['points'].shape == (2, 5)


def test_points_in_the_image_are_those_of_velodyne_reduced(tmp_path: Path) -> None:
    plan = KittiPlan(train=2, val=0, seed=4, sensor=Lidar(beams=16, step=1.0), images=False)
    generate(tmp_path / 'kitti', plan, workers=1)
    infos = pickle.loads((tmp_path / 'kitti/kitti_infos_train.pkl').read_bytes())['data_list']
    for info in infos:
        name = info['lidar_points']['lidar_path']
        whole, reduced = (np.fromfile(tmp_path / 'kitti/training' / kind / name, np.float32)
                          for kind in ('velodyne', 'velodyne_reduced'))
        results = dict(points=LiDARPoints(whole.reshape(-1, 4), points_dim=4), images=info['images'])
        found = PointsInImage()(results)['points'].tensor.numpy()
        np.testing.assert_array_equal(found, reduced.reshape(-1, 4))
        assert 0 < len(found) < len(whole) / 4
