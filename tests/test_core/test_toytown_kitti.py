"""Toytown as a KITTI folder: calibration, labels, infos and databases, read back with mmdet3d's own classes."""

import hashlib
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmpapers.datasets.toytown.__main__ import main
from mmpapers.datasets.toytown.annotate import annotate
from mmpapers.datasets.toytown.generate import Plan, generate
from mmpapers.datasets.toytown.kitti import (
    Row,
    inside,
    label_rows,
    lidar_boxes,
    projection,
    rectify,
    velo_to_cam,
    wrap,
)
from mmpapers.datasets.toytown.kitti_plan import KittiPlan
from mmpapers.datasets.toytown.lidar import CAR_ID, LINE_ID, ROAD_ID, Lidar, Pose, scan, to_frame
from mmpapers.datasets.toytown.scene import sample_scene
from mmpapers.datasets.toytown.view import look

pytestmark = pytest.mark.det3d

BASES = Path(__file__).parents[2] / 'configs/_base_'
SENSOR = Lidar(beams=24, step=0.5)
PLAN = KittiPlan(train=3, val=2, seed=4, sensor=Lidar(beams=16, step=1.0), sweeps=1, images=False, conceptual=True)
ARGUMENTS = ['--lidar', '--train', '3', '--val', '2', '--seed', '4', '--workers', '1', '--beams', '16',
             '--azimuth-step', '1', '--sweeps', '1', '--no-images', '--conceptual']


@pytest.fixture(scope='module')
def frames():
    """Rectified scenes with their views, scans and labels."""
    made = []
    for index in (5, 6, 12):
        scene = rectify(sample_scene(0, 'train', index), (320, 192))
        view, seen = look(scene), scan(scene, SENSOR)
        made.append((scene, view, seen, label_rows(scene, view, seen)))
    return made


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small complete set, made in this process."""
    out = tmp_path_factory.mktemp('kitti') / 'set'
    generate(out, PLAN, workers=1)
    return out


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def in_frame(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a homogeneous transform (4, 4)."""
    return points[:, :3].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]


def test_calibration_agrees_with_the_camera(frames):
    for scene, view, seen, _ in frames:
        labels = annotate(scene, view)
        camera = in_frame(seen.points, velo_to_cam(scene, SENSOR))
        ego = in_frame(seen.points, Pose(0, 0, SENSOR.height, scene.camera.yaw).matrix)
        pixels, depth = scene.camera.project(ego)
        matrix = projection(scene)[:3] @ velo_to_cam(scene, SENSOR)
        flat = in_frame(seen.points, np.vstack([matrix, [0, 0, 0, 1]]))
        ahead = depth > 1
        np.testing.assert_allclose(flat[ahead, :2] / flat[ahead, 2:], pixels[ahead], atol=1e-4)
        np.testing.assert_allclose(camera[:, 2], depth, atol=1e-5)
        u, v = np.round(np.where(ahead[:, None], pixels, -1)).astype(int).T
        visible = (u >= 0) & (u < 320) & (v >= 0) & (v < 192)
        visible[visible] = np.abs(labels.depth[v[visible], u[visible]] - depth[visible]) < 0.1
        assert visible.sum() > 500
        assert (labels.instance[v[visible], u[visible]] == seen.instance[visible]).mean() > 0.99


def test_rectified_camera_shows_the_same_scene():
    scene = sample_scene(0, 'val', 3)
    level = rectify(scene, (640, 384))
    assert level.objects is scene.objects and level.primitives is scene.primitives
    assert (level.camera.pitch, level.camera.roll) == (0, 0) and level.camera.position == scene.camera.position
    assert level.camera.focal / 640 == scene.camera.focal / 320
    for distance in (8.0, 30.0):  # on the optical axis, both see a point in almost the same place
        point = scene.camera.position + distance * scene.camera.axes[2]
        pixel, wanted = level.camera.project(point)[0], scene.camera.project(point)[0]
        np.testing.assert_allclose((pixel + 0.5) / 2 - 0.5, wanted, atol=0.1)


def test_labels_follow_kitti_and_survive_mmdet3d(frames):
    from mmdet3d.structures import Box3DMode, CameraInstance3DBoxes
    for scene, _, seen, rows in frames:
        known = [row for row in rows if row.name != 'DontCare']
        assert len(known) > 2
        transform = velo_to_cam(scene, SENSOR)
        boxes = lidar_boxes(known, transform)
        camera = CameraInstance3DBoxes(torch.tensor([
            [*row.location, row.size[2], row.size[0], row.size[1], row.rotation_y] for row in known]))
        stock = camera.convert_to(Box3DMode.LIDAR, np.linalg.inv(transform))
        np.testing.assert_allclose(stock.tensor[:, :6], boxes[:, :6], atol=1e-4)
        np.testing.assert_allclose(np.cos(stock.tensor[:, 6] - boxes[:, 6]), 1, atol=1e-6)
        pose = Pose(0, 0, SENSOR.height, scene.camera.yaw)
        for row, box, corners in zip(known, boxes, stock.corners.numpy()):
            item = scene.objects[row.index]
            want = to_frame(item.corners(), pose)
            assert np.linalg.norm(corners[:, None] - want, axis=2).min(1).max() < 2e-3
            heading = to_frame(np.array([[0, 0, 0], [math.cos(item.yaw), math.sin(item.yaw), 0]]), pose)
            turn = heading[1] - heading[0]
            assert math.cos(float(box[6]) - math.atan2(turn[1], turn[0])) > 1 - 1e-6
            x, _, z = row.location
            assert math.cos(row.alpha - (row.rotation_y - math.atan2(x, z))) > 1 - 1e-6
            pixels = scene.camera.project(item.corners())[0]
            left, top, right, bottom = row.bbox
            assert left >= max(0, pixels[:, 0].min()) - 1 and right <= min(319, pixels[:, 0].max()) + 1
            assert top >= max(0, pixels[:, 1].min()) - 1 and bottom <= min(191, pixels[:, 1].max()) + 1
            assert 0 <= row.truncated < 0.5 and (row.truncated > 0.02) == (pixels.min() < 0 or pixels[:, 0].max() > 320)
        mine = np.stack([inside(seen.points, box) for box in boxes], 1)
        theirs = stock.points_in_boxes_all(torch.from_numpy(seen.points[:, :3].copy())).numpy()
        assert (mine != theirs).sum() <= 2
        fields = str(known[0]).split()
        assert len(fields) == 15 and fields[0] == known[0].name
        np.testing.assert_allclose([float(field) for field in fields[8:]],
                                   [*known[0].size, *known[0].location, known[0].rotation_y], atol=1e-9)


def test_difficulty_counts_pixels_occlusion_and_truncation():
    row = Row('Car', 0.0, 0, 0.0, (10, 10, 60, 51), (1.5, 1.6, 4.0), (0.0, 1.5, 10.0), 0.0, 0)
    assert row.difficulty == 0
    assert replace(row, bbox=(10, 10, 60, 50)).difficulty == 1
    assert replace(row, occluded=2).difficulty == 2
    assert replace(row, truncated=0.6).difficulty == -1
    assert replace(row, name='DontCare').difficulty == -1
    assert wrap(math.pi) == -math.pi and wrap(4.0) == pytest.approx(4 - 2 * math.pi)


def test_what_nobody_sees_is_dont_care(frames):
    scene, view, seen, rows = frames[0]
    blind = replace(seen, instance=np.where(seen.instance == rows[0].index + 1, 0, seen.instance))
    changed = label_rows(scene, view, blind)
    assert changed[-1].name == 'DontCare' and changed[-1].index == rows[0].index
    assert changed[-1].bbox == rows[0].bbox and changed[-1].location == (-1000, -1000, -1000)
    assert [row for row in changed if row.name != 'DontCare'] == [row for row in rows[1:] if row.name != 'DontCare']


def test_folder_is_kittis(folder):
    names = contents(folder)
    stems = ['000000', '000001', '000002', '100000', '100001']
    for stem in stems:
        for name in ('velodyne/{}.bin', 'velodyne_reduced/{}.bin', 'labels/{}.label', 'calib/{}.txt',
                     'label_2/{}.txt', 'poses/{}.txt', 'sweeps/{}_1.bin'):
            assert 'training/' + name.format(stem) in names
        assert f'conceptual/velodyne/{stem}.bin' in names
        count = (folder / f'training/velodyne/{stem}.bin').stat().st_size // 16
        assert (folder / f'training/labels/{stem}.label').stat().st_size == 4 * count
        assert (folder / f'conceptual/velodyne/{stem}.bin').stat().st_size // 16 > count
        poses = np.loadtxt(folder / f'training/poses/{stem}.txt').reshape(2, 3, 4)
        np.testing.assert_array_equal(poses[0], np.eye(4)[:3])
        assert -1.5 < poses[1, 0, 3] < -0.1
    assert (folder / 'ImageSets/val.txt').read_text().split() == stems[3:]
    manifest = json.loads((folder / 'toytown.json').read_text())
    assert manifest['complete'] and manifest['parameters']['kind'] == 'kitti'
    assert manifest['counts']['train']['scans'] == 3


def test_infos_and_databases(folder):
    infos = pickle.loads((folder / 'kitti_infos_train.pkl').read_bytes())
    assert infos['metainfo']['categories']['Car'] == 2 and infos['metainfo']['categories']['DontCare'] == -1
    plain, dense = (pickle.loads((folder / base / 'kitti_dbinfos_train.pkl').read_bytes()) for base in
                    ('', 'conceptual'))
    assert plain.keys() == dense.keys()
    seen = 0
    for name, entries in plain.items():
        assert [entry['path'] for entry in entries] == [entry['path'] for entry in dense[name]]
        for entry, twin in zip(entries, dense[name]):
            frame = infos['data_list'][entry['image_idx']]
            instance = frame['instances'][entry['gt_idx']]
            points = np.fromfile(folder / entry['path'], np.float32).reshape(-1, 4)
            assert entry['num_points_in_gt'] == len(points) == instance['num_lidar_pts']
            more = np.fromfile(folder / 'conceptual' / twin['path'], np.float32).reshape(-1, 4)
            assert len(more) == twin['num_points_in_gt'] and len(more) + 3 >= len(points)
            cloud = np.fromfile(folder / 'training/velodyne' / frame['lidar_points']['lidar_path'], np.float32)
            cut = cloud.reshape(-1, 4)[inside(cloud.reshape(-1, 4), entry['box3d_lidar'].astype(np.float64))]
            assert abs(len(cut) - len(points)) <= 1
            np.testing.assert_array_equal(entry['box3d_lidar'], twin['box3d_lidar'])
            seen += 1
    assert seen == sum(item['bbox_label'] >= 0 for entry in infos['data_list'] for item in entry['instances'])


def at(root: Path, part: dict) -> dict:
    """A dataset config whose paths point into another folder."""
    text = json.dumps(part).replace('data/toytown_kitti/', f'{root}/')
    return json.loads(text)


@pytest.fixture(scope='module')
def config():
    """The base config for Toytown's KITTI folder."""
    return Config.fromfile(BASES / 'datasets/toytown_kitti.py')


def test_stock_dataset_trains_and_validates_on_it(folder, config):
    from mmdet3d.registry import DATASETS
    part = at(folder, config.train_dataloader.dataset.to_dict())
    sampler = part['pipeline'][2]['db_sampler']
    sampler['sample_groups'], sampler['prepare'] = dict(Pedestrian=3), {}
    dataset = DATASETS.build(dict(part, _scope_='mmdet3d'))
    assert len(dataset) == 3
    sample = dataset[0]
    low, high = np.array(config.point_cloud_range[:3]), np.array(config.point_cloud_range[3:])
    points = sample['inputs']['points'][:, :3].numpy()
    assert len(points) > 1000 and (points >= low).all() and (points <= high).all()
    truth = sample['data_samples'].gt_instances_3d
    assert len(truth) > 0 and set(truth.labels_3d.tolist()) <= {0, 1, 2}
    dataset = DATASETS.build(dict(at(folder, config.val_dataloader.dataset.to_dict()), _scope_='mmdet3d'))
    sample = dataset[1]['data_samples']
    boxes = sample.eval_ann_info['gt_bboxes_3d']
    infos = pickle.loads((folder / 'kitti_infos_val.pkl').read_bytes())['data_list'][1]
    assert len(boxes) == sum(item['bbox_label'] in (0, 1, 2) for item in infos['instances'])
    cloud = torch.from_numpy(np.fromfile(folder / 'training/velodyne/100001.bin', np.float32).reshape(-1, 4))
    counts = (boxes.points_in_boxes_all(cloud[:, :3]) if len(boxes) else torch.zeros(0, 0)).sum(0)
    wanted = [item['num_lidar_pts'] for item in infos['instances'] if item['bbox_label'] in (0, 1, 2)]
    assert (counts - torch.tensor(wanted)).abs().max() <= 1


def test_stock_segmentation_dataset_reads_the_labels(folder):
    from mmdet3d.registry import DATASETS
    dataset = DATASETS.build(dict(
        type='SemanticKittiDataset', _scope_='mmdet3d', data_root=str(folder), ann_file='kitti_infos_val.pkl',
        data_prefix=dict(pts='training/velodyne', pts_semantic_mask='training/labels'),
        metainfo=dict(classes=('car', 'road'), seg_label_mapping={CAR_ID: 0, ROAD_ID: 1, LINE_ID: 1}, max_label=259),
        pipeline=[dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
                  dict(type='LoadAnnotations3D', with_bbox_3d=False, with_label_3d=False, with_seg_3d=True,
                       seg_3d_dtype='np.int32', seg_offset=2 ** 16, dataset_type='semantickitti'),
                  dict(type='PointSegClassMapping'),
                  dict(type='Pack3DDetInputs', keys=['points', 'pts_semantic_mask'])]))
    sample = dataset[0]
    mask = sample['data_samples'].gt_pts_seg.pts_semantic_mask
    raw = np.fromfile(folder / 'training/labels/100000.label', np.uint32) & 0xFFFF
    assert len(mask) == len(sample['inputs']['points']) == len(raw)
    assert (np.asarray(mask) == 1).sum() == np.isin(raw, (ROAD_ID, LINE_ID)).sum() > 500


def test_workers_do_not_matter_and_complete_sets_are_reused(folder, tmp_path, capsys):
    generate(tmp_path / 'two', PLAN, workers=2)
    before = contents(folder)
    assert contents(tmp_path / 'two') == before
    assert main([str(folder), *ARGUMENTS]) == 0
    assert 'reused' in capsys.readouterr().out and contents(folder) == before
    assert main([str(folder), *ARGUMENTS, '--drop-out', '0.1']) == 2
    assert '--overwrite' in capsys.readouterr().err


def test_a_set_of_the_other_kind_is_replaced_only_on_request(tmp_path, capsys):
    small = ['--train', '1', '--val', '0', '--workers', '1', '--size', '160x96']
    out = tmp_path / 'set'
    generate(out, Plan(train=1, val=0, size=(160, 96)), workers=1)
    assert main([str(out), *small, '--lidar']) == 2
    assert 'kind None -> kitti' in capsys.readouterr().err
    assert main([str(out), *small, '--lidar', '--overwrite', '--preview', str(tmp_path / 'sheet.png')]) == 0
    assert not (out / 'images').exists() and (out / 'kitti_infos_train.pkl').is_file()
    assert cv2.imread(str(out / 'training/image_2/000000.png')).shape == (96, 160, 3)
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape == (96, 160 + 96, 3)
    assert main([str(out), *small, '--overwrite']) == 0
    assert {path.name for path in out.iterdir()} == {'images', 'labels', 'depth', 'annotations', 'lanes',
                                                     'toytown.json'}


@pytest.mark.parametrize('arguments, word', [
    (['--beams', '1'], '--beams 1'), (['--elevation', '3', '-20'], 'lower one first'),
    (['--azimuth-step', '0'], '--azimuth-step'), (['--drop-out', '1'], '--drop-out'), (['--sweeps', '99'], '--sweeps'),
    (['--range-noise', '-1'], '--range-noise'), (['--lidar-height', '9'], '--lidar-height'),
    (['--reach', '1'], '--reach')])
def test_senseless_sensors(tmp_path, arguments, word, capsys):
    assert main([str(tmp_path / 'set'), '--lidar', *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith('toytown: --') and word in message
    assert not (tmp_path / 'set').exists()


def test_sensor_options_need_the_lidar(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / 'set'), '--azimuth-step', '0.5'])
    assert stop.value.code == 2 and '--azimuth-step needs --lidar' in capsys.readouterr().err


def test_base_configs_build():
    from mmdet3d.registry import METRICS, TRANSFORMS, VISUALIZERS
    for name in ('toytown_kitti', 'kitti_3class'):
        cfg = Config.fromfile(BASES / f'datasets/{name}.py')
        steps = [step for step in cfg.train_pipeline if step.type != 'ObjectSample'] + list(cfg.test_pipeline)
        assert type([TRANSFORMS.build(step) for step in steps][-1]).__name__ == 'Pack3DDetInputs'
        metric = METRICS.build(cfg.val_evaluator)
        assert metric.ann_file == cfg.data_root + cfg.val_dataloader.dataset.ann_file
    runtime = Config.fromfile(BASES / 'runtimes/det3d.py')
    assert runtime.default_scope == 'mmdet3d' and VISUALIZERS.get(runtime.visualizer.type)
