"""Conceptual scenes: geometry, choice of candidates, what stays, and the command on a small KITTI folder."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TASK_UTILS

from mmpapers.datasets.toytown.generate import generate
from mmpapers.datasets.toytown.kitti_plan import KittiPlan
from mmpapers.datasets.toytown.lidar import Lidar
from mmpapers.projects.ago_net.build_scenes import build, main
from mmpapers.projects.ago_net.scenes import ConceptualSceneBuilder, from_box, members, owners, to_box

pytestmark = pytest.mark.det3d
CONFIGS = Path(__file__).parents[3] / 'configs/lidar'
PLAN = KittiPlan(train=8, val=1, seed=4, sensor=Lidar(beams=16, step=1.0), images=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small KITTI folder of eight training frames."""
    out = tmp_path_factory.mktemp('kitti') / 'toytown'
    generate(out, PLAN, workers=1)
    return out


def config(folder: Path) -> Config:
    """The PointPillars of Toytown on another folder, repeated as KITTI's configs do."""
    text = (CONFIGS / 'pointpillars_toytown-cpu.py').resolve()
    cfg = Config.fromfile(text)
    data = cfg.train_dataloader.dataset
    data.data_root = f'{folder}/'
    data.pipeline[2].db_sampler.update(data_root=f'{folder}/', info_path=f'{folder}/kitti_dbinfos_train.pkl')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=data)
    return cfg


def cloud(rng: np.random.Generator, box: np.ndarray, count: int) -> np.ndarray:
    """Points in a box."""
    return from_box(np.c_[rng.uniform(-.5, .5, (count, 3)), rng.random((count, 1))], box).astype(np.float32)


def test_box_frames_are_inverse_to_each_other_and_scale_with_the_size() -> None:
    rng = np.random.default_rng(0)
    box = np.array([8., -3., -1.7, 4., 1.8, 1.5, 2.3], np.float32)
    points = cloud(rng, box, 50)
    shares = to_box(points, box)
    assert np.abs(shares[:, :3]).max() <= .5
    np.testing.assert_allclose(from_box(shares, box), points, atol=1e-5)
    front = from_box(np.array([[.5, 0, 0, 7.]]), box)[0]
    np.testing.assert_allclose(front, [8 + 2 * np.cos(2.3), -3 + 2 * np.sin(2.3), -.95, 7], atol=1e-3)
    assert len(members(points, box)) == 50
    assert (owners(np.r_[points, [[99, 0, 0, 0]]], np.stack([box, box])) == [0] * 50 + [-1]).all()


@pytest.mark.parametrize(('x', 'y', 'yaw', 'expected'), [
    (10, 0, 0, 0), (10, 0, .38, 0), (10, 0, -.38, 0), (10, 0, .4, 1), (10, 0, -.4, 7), (10, 0, np.pi, 4),
    (0, 10, np.pi / 2, 0), (0, 10, 0, 6), (10, 10, np.pi / 4 + 4 * np.pi, 0)])
def test_bins_are_those_of_the_heading_relative_to_the_ray(x: float, y: float, yaw: float, expected: int) -> None:
    assert ConceptualSceneBuilder(bins=8).bin(np.array([x, y, 0, 1, 1, 1, yaw])) == expected


def test_the_nearest_shape_is_chosen_and_scaled_to_the_box() -> None:
    def half(side: int, count: int, box: np.ndarray) -> np.ndarray:
        share = np.c_[side * np.linspace(.05, .45, count), np.zeros((count, 2)), np.full(count, side)]
        return from_box(share, box).astype(np.float32)

    boxes = np.array([[10 + 8 * i, 0, -1, 4, 2, 1.5, 0] for i in range(4)], np.float32)
    boxes[3, 3] = 2  # the sparse one is half as long
    points = np.concatenate([half(*what) for what in zip((1, -1, 1, -1), (40, 30, 20, 2), boxes)])
    builder = ConceptualSceneBuilder(share=.5)
    builder.add('a', points, boxes, ['Car'] * 4)
    builder.match()
    out = builder.build('a', points, boxes)
    inside = out[members(out, boxes[3])]
    assert len(inside) == 30 and (inside[:, 3] == -1).all()  # the second shape, not the densest
    np.testing.assert_allclose(np.sort(inside[:, 0]), 34 - np.linspace(.45, .05, 30) * 2, atol=1e-3)
    assert len(out[members(out, boxes[2])]) == 40  # this one became the first
    assert builder.summary() == dict(Car=dict(objects=4, candidates=2, replaced=2))


def test_number_and_background_stay_and_no_object_loses_points() -> None:
    rng = np.random.default_rng(1)
    builder, scenes = ConceptualSceneBuilder(bins=2, share=.3), {}
    for key in 'abc':
        angle = np.linspace(0, 5, 6)
        boxes = np.c_[12 * np.cos(angle), 12 * np.sin(angle), np.full(6, -1.7), rng.uniform(1, 4, (6, 3)),
                      rng.uniform(-3, 3, 6)].astype(np.float32)
        objects = [cloud(rng, box, int(rng.integers(0, 60))) for box in boxes]
        background = rng.uniform(30, 40, (100, 4)).astype(np.float32)
        points = rng.permutation(np.concatenate([*objects, background]))
        names = ['Car', 'Car', 'Cyclist', 'Car', None, 'Cyclist']
        scenes[key] = points, boxes
        builder.add(key, points, boxes, names)
    builder.match()
    for key, (points, boxes) in scenes.items():
        out, before = builder.build(key, points, boxes), owners(points, boxes)
        kept = points[before == -1]
        assert out.dtype == points.dtype
        np.testing.assert_array_equal(out[:len(points)][np.isin(out[:len(points)], kept).all(1)], kept)
        after = owners(out, boxes)
        assert (after == -1).sum() == len(kept)
        for index, cut in enumerate(builder.scenes[key]):
            old, new = (before == index).sum(), (after == index).sum()
            assert new >= old if cut is not None and cut.source else new == old
        assert (after == 4).sum() == (before == 4).sum()  # None: left as it is
    assert sum(row['replaced'] for row in builder.summary().values()) > 5


def test_scenes_without_objects_and_wrong_settings() -> None:
    builder = TASK_UTILS.build(dict(type='mmpapers.ConceptualSceneBuilder', most=5))
    points = np.ones((3, 4), np.float32)
    builder.add('a', points, np.zeros((0, 7)), [])
    builder.match()
    np.testing.assert_array_equal(builder.build('a', points, np.zeros((0, 7))), points)
    with pytest.raises(ValueError, match='share=0'):
        ConceptualSceneBuilder(share=0)


def test_the_command_writes_clouds_and_a_database_beside_the_data(folder: Path, tmp_path: Path) -> None:
    cfg, out = config(folder), tmp_path / 'conceptual'
    cfg.dump(tmp_path / 'detector.py')
    assert main([str(tmp_path / 'detector.py'), str(out), '--bins', '2']) == 0
    manifest = json.loads((out / 'conceptual.json').read_text())
    assert manifest['scenes'] == 8 and manifest['bins'] == 2
    original = sorted((folder / 'training/velodyne_reduced').glob('0000*.bin'))
    assert [path.name for path in sorted((out / 'velodyne_reduced').glob('*.bin'))] == [path.name for path in original]
    database, twins = (pickle.loads((path / 'kitti_dbinfos_train.pkl').read_bytes()) for path in (folder, out))
    changed = 0
    for name, entries in database.items():
        for old, new in zip(entries, twins[name], strict=True):
            assert old['path'] == new['path'] and (old['box3d_lidar'] == new['box3d_lidar']).all()
            points = np.fromfile(out / new['path'], np.float32).reshape(-1, 4)
            assert len(points) == new['num_points_in_gt']
            assert (np.abs(points[:, :2]) <= np.hypot(*old['box3d_lidar'][3:5]) / 2).all()
            scene = np.fromfile(folder / f'training/velodyne_reduced/{old["image_idx"]:06d}.bin', np.float32)
            seen = len(members(scene.reshape(-1, 4), old['box3d_lidar']))
            assert len(points) >= seen if name != 'Van' else len(points) == seen
            changed += _replaced(new, folder, out)
    assert changed == sum(row['replaced'] for row in manifest['classes'].values()) > 0


def _replaced(entry: dict, folder: Path, out: Path) -> bool:
    """Whether an object has other points than before."""
    clouds = []
    for root in (folder / 'training/velodyne_reduced', out / 'velodyne_reduced'):
        points = np.fromfile(root / f'{entry["image_idx"]:06d}.bin', np.float32).reshape(-1, 4)
        clouds.append(points[members(points, entry['box3d_lidar'])])
    return not np.array_equal(*clouds)


def test_the_data_themselves_are_never_overwritten(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = (folder / 'training/velodyne_reduced/000000.bin').read_bytes()
    with pytest.raises(ValueError, match='perceptual clouds themselves'):
        build(config(folder), folder / 'training')
    assert (folder / 'training/velodyne_reduced/000000.bin').read_bytes() == before
    with pytest.raises(SystemExit) as stopped:
        main([str(CONFIGS.parent / '_base_/datasets/toytown_detection.py'), str(folder / 'x')])
    assert stopped.value.code == 2 and 'LoadAnnotations3D' in capsys.readouterr().err
