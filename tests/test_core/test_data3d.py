"""Point clouds with boxes on disk: converters, readers, what the checker says, and what stock data sets load."""

import builtins
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmpapers.cli.check import check_config
from mmpapers.datasets.converters import ConversionError, argoverse2, infos, kitti
from mmpapers.datasets.infos import InfoError, faults, load_infos
from mmpapers.datasets.points import PointFileError, in_box, read_points

pytestmark = pytest.mark.det3d

ROOT = Path(__file__).parents[2]
PIPELINE = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
            dict(type='PointsRangeFilter', point_cloud_range=[0, -40, -3, 70, 40, 3]),
            dict(type='Pack3DDetInputs', keys=['points'])]
KITTI = dict(type='KittiDataset', ann_file='kitti_infos_val.pkl', data_prefix=dict(pts='training/velodyne_reduced'),
             metainfo=dict(classes=['Car', 'Pedestrian', 'Cyclist']), pipeline=PIPELINE, test_mode=True)


@pytest.fixture
def scope():
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- points ----------------------------------------------------------------------------------------------------------

def test_read_points(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    points.tofile(tmp_path / 'a.bin')
    np.testing.assert_array_equal(read_points(tmp_path / 'a.bin', 5), points)
    with pytest.raises(PointFileError, match='a.bin has 140 bytes, .* multiple of 16 .*points have 5 or 7 numbers'):
        read_points(tmp_path / 'a.bin', 4)
    (tmp_path / 'b.bin').write_bytes(points.tobytes()[:-3])
    with pytest.raises(PointFileError, match='137 bytes.*it is truncated$'):
        read_points(tmp_path / 'b.bin', 5)
    for value in (np.nan, np.inf, -np.inf):
        bad = points.copy()
        bad[3:5, 2] = value
        bad.tofile(tmp_path / 'c.bin')
        with pytest.raises(PointFileError, match='2 of 7 points are NaN or infinite, the first is point 3'):
            read_points(tmp_path / 'c.bin', 5)
    (tmp_path / 'd.bin').write_bytes(b'')
    with pytest.raises(PointFileError, match='holds no point'):
        read_points(tmp_path / 'd.bin', 5)
    with pytest.raises(PointFileError, match='cannot be read'):
        read_points(tmp_path / 'e.bin', 5)


def test_in_box():
    rng = np.random.default_rng(1)
    points = rng.uniform(-3, 3, (500, 4)).astype(np.float32)
    x, y, z, length, width, height, yaw = box = (.4, -.3, .2, 3., 1., 1.5, .7)
    expected = []
    for index, point in enumerate(points[:, :3]):
        dx, dy = point[0] - x, point[1] - y
        along, across = dx * np.cos(yaw) + dy * np.sin(yaw), -dx * np.sin(yaw) + dy * np.cos(yaw)
        if abs(along) <= length / 2 and abs(across) <= width / 2 and abs(point[2] - z) <= height / 2:
            expected.append(index)
    assert in_box(points, box).tolist() == expected and len(expected) > 3
    assert len(in_box(points[:0], box)) == 0


# --- KITTI -----------------------------------------------------------------------------------------------------------

def test_kitti(kitti_set):
    content = load_infos(kitti_set / 'kitti_infos_train.pkl')
    assert content['metainfo']['categories']['DontCare'] == -1 and len(content['data_list']) == 3
    objects = content['data_list'][2]['instances']
    assert [o['bbox_label_3d'] for o in objects] == [2, 0, 1, 3, -1], 'DontCare comes last'
    assert [o['num_lidar_pts'] for o in objects] == [20, 40, 40, 40, -1]
    assert [o['difficulty'] for o in objects] == [0, 0, 1, 0, -1]
    assert objects[1]['bbox_3d'] == [2.6, 1.6, 9., .8, 1.7, .6, -1.2]
    u, v, depth = np.array([[400, 0, 200, 8], [0, 400, 60, 0], [0, 0, 1, 0]]) @ (2.6, 1.6 - .85, 9, 1)
    assert objects[1]['center_2d'] == pytest.approx([u / depth, v / depth]) and objects[1]['depth'] == depth
    cloud = read_points(kitti_set / 'training/velodyne_reduced/000002.bin', 4)
    assert 120 < len(cloud) < 740, 'the camera sees a part of the cloud'


def test_kitti_loads_with_mmdet3d(kitti_set, scope):
    """Boxes come back in the LiDAR's frame with their points inside, by mmdet3d's own geometry."""
    dataset = DATASETS.build(dict(KITTI, data_root=str(kitti_set)))
    sample = dataset[1]
    truth = sample['data_samples'].eval_ann_info
    assert truth['gt_labels_3d'].tolist() == [0, 1, 2], 'the van is another class'
    inside = truth['gt_bboxes_3d'].points_in_boxes_all(sample['inputs']['points'][:, :3]).sum(0)
    assert inside.tolist() == [10, 40, 40]
    assert truth['gt_bboxes_3d'].gravity_center[0].tolist() == pytest.approx([14.27, 1.7, -.93], abs=1e-5)


def test_kitti_database(kitti_set):
    """Cut-out objects are relative to their box, which stands on the ground."""
    database = pickle.loads((kitti_set / 'kitti_dbinfos_train.pkl').read_bytes())
    assert {name: len(rows) for name, rows in database.items() if rows} == {
        'Car': 3, 'Pedestrian': 3, 'Cyclist': 3, 'Van': 3}
    row = database['Pedestrian'][1]
    points = np.fromfile(kitti_set / row['path'], np.float32).reshape(-1, 4)
    assert len(points) == row['num_points_in_gt'] == 40 and row['image_idx'] == 1
    assert (np.hypot(points[:, 0], points[:, 1]) <= .5).all() and points[:, 2].min() >= 0 and points[:, 2].max() <= 1.7


def test_kitti_splits_and_place(kitti_source):
    """ImageSets choose frames; in place nothing but infos and the camera's points are added."""
    (kitti_source / 'ImageSets').mkdir()
    (kitti_source / 'ImageSets/train.txt').write_text('000000\n000002\n')
    (kitti_source / 'ImageSets/val.txt').write_text('000001\n')
    before = {path: path.read_bytes() for path in kitti_source.rglob('*') if path.is_file()}
    lines = kitti.convert(kitti_source, kitti_source)
    assert lines['train'].startswith('2 frames, 2 Car, 2 Pedestrian, 2 Cyclist, 2 Van, ')
    assert lines['val'].startswith('1 frames') and set(lines) == {'train', 'val'}
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [f['sample_idx'] for f in load_infos(kitti_source / 'kitti_infos_train.pkl')['data_list']] == [0, 2]


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda base: (base / 'calib/000001.txt').unlink(), r'calib.000001.txt is missing: boxes and points'),
    (lambda base: edit(base / 'calib/000001.txt', 'Tr_velo_to_cam: 0 -1', 'Tr_velo_to_cam: -1'),
     'Tr_velo_to_cam needs 12 numbers, found'),
    (lambda base: edit(base / 'calib/000001.txt', 'R0_rect', 'R9'), 'R0_rect needs 9 numbers, found .none.'),
    (lambda base: (base / 'velodyne/000001.bin').write_bytes(b'\0' * 30), 'no multiple of 16.*truncated'),
    (lambda base: np.full((5, 4), np.nan, np.float32).tofile(base / 'velodyne/000001.bin'), '5 of 5 points are NaN'),
    (lambda base: (base / 'velodyne/000001.bin').unlink(), r'000001.bin cannot be read'),
    (lambda base: np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32).tofile(
        base / 'velodyne/000001.bin'), 'fourth number of many points is negative, so it is no reflectance'),
    (lambda base: edit(base / 'label_2/000001.txt', 'Cyclist', 'Scooter'),
     r'000001.txt, line 4: unknown class .Scooter.; the classes are Pedestrian'),
    (lambda base: edit(base / 'label_2/000001.txt', '1.7 0.6 0.8', '1.7 0.0 0.8'), 'line 3: the box has no volume'),
    (lambda base: edit(base / 'label_2/000001.txt', ' -1.2', ''), 'line 3: expected a class and 14 numbers'),
    (lambda base: (base / 'label_2/000001.txt').unlink(), r'000001.txt is missing; add the file \(empty'),
    (lambda base: (base / 'image_2/000001.png').write_bytes(b'no'), r'000001.png cannot be decoded'),
    (lambda base: (base / 'image_2/000001.png').unlink(), r'000001.png is missing'),
    (lambda base: [path.unlink() for part in base.iterdir() for path in part.iterdir()], 'holds no frame')])
def test_kitti_damaged(kitti_source, tmp_path, damage, message):
    """Each fault stops before anything is written, with the file's name."""
    damage(kitti_source / 'training')
    with pytest.raises(ConversionError, match=message):
        kitti.convert(kitti_source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# --- other sources ---------------------------------------------------------------------------------------------------

def write_json_infos(folder, **changes):
    """One nuScenes-like frame as JSON."""
    (folder / 'points').mkdir(parents=True)
    np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32).tofile(folder / 'points/a.bin')
    frame = dict(sample_idx=0, token='t', lidar_points=dict(lidar_path='a.bin', num_pts_feats=5), instances=[
        dict(bbox_3d=[1., 2, 0, 4, 2, 1.5, .3], bbox_label_3d=0, bbox_label=0, num_lidar_pts=3, velocity=[None, None]),
        dict(bbox_3d=[5., 2, 0, 4, 2, 1.5, .3], bbox_label_3d=7, bbox_label=7, num_lidar_pts=3, velocity=[1., 2.])])
    frame.update(changes)
    content = dict(metainfo=dict(categories=dict(car=0, pedestrian=7, barrier=8)), data_list=[frame])
    (folder / 'infos.json').write_text(json.dumps(content))
    return folder


def test_json_infos(tmp_path, scope):
    lines = infos.convert(write_json_infos(tmp_path / 'in'), tmp_path / 'out')
    assert lines == {'infos': '1 frames, 2 objects, 50 points'}
    content = load_infos(tmp_path / 'out/infos.pkl')
    assert np.isnan(content['data_list'][0]['instances'][0]['velocity']).all()
    dataset = DATASETS.build(dict(type='NuScenesDataset', data_root=str(tmp_path / 'out'), ann_file='infos.pkl',
                                  data_prefix=dict(pts='points'), test_mode=True, pipeline=[
                                      dict(PIPELINE[0], load_dim=5, use_dim=5), PIPELINE[2]]))
    sample = dataset[0]
    assert sample['inputs']['points'].shape == (50, 5)
    boxes = sample['data_samples'].eval_ann_info['gt_bboxes_3d']
    assert boxes.gravity_center[1].tolist() == [5, 2, 0] and boxes.tensor[:, 7:].tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(lidar_points=dict(lidar_path='b.bin', num_pts_feats=5)), 'b.bin is named in infos.json but missing'),
    (dict(lidar_points=dict(lidar_path='a.bin', num_pts_feats=7)), 'no multiple of 28'),
    (dict(lidar_points={}), 'frame 0: lidar_points.lidar_path is missing'),
    (dict(instances=[dict(bbox_3d=[0, 0, 0, 1, 0, 1, 0], bbox_label_3d=0)]), 'object 0 has a box without volume'),
    (dict(instances=[dict(bbox_3d=[0, 0, 0, 1, 1, 1, 0], bbox_label_3d=12)]), 'object 0 has the label 12'),
    (dict(images=dict(CAM=dict(img_path='x.jpg', lidar2cam=np.eye(4).tolist()))), 'images.CAM.cam2img is missing')])
def test_json_infos_damaged(tmp_path, changes, message):
    with pytest.raises(ConversionError, match=message):
        infos.convert(write_json_infos(tmp_path / 'in', **changes), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_json_infos_absent_or_broken(tmp_path):
    with pytest.raises(ConversionError, match='infos.json is missing'):
        infos.convert(tmp_path, tmp_path / 'out')
    for text, message in (('{', 'is damaged'), ('[]', 'has no data_list')):
        (tmp_path / 'infos.json').write_text(text)
        with pytest.raises(ConversionError, match=message):
            infos.convert(tmp_path, tmp_path / 'out')


def write_sweeps(folder, **changes):
    """One annotated sweep in the form of Argoverse 2, turned by 90 degrees in the city."""
    (folder / 'lidar').mkdir(parents=True)
    points = np.zeros((9, 4), np.float32)
    points[:5, :3] = (3, 1, .5)
    points.tofile(folder / 'lidar/s.bin')
    instance = dict(category='BUS', track_uuid='u', center=[3, 1, .5], size_lwh=[8, 2.5, 3], yaw=1.2,
                    quat_wxyz=[1, 0, 0, 0], num_interior_pts=5, **changes.pop('instance', {}))
    instance.update(changes)
    frame = dict(log_id='l', timestamp_ns=1500000000, lidar='lidar/s.bin', instances=[instance],
                 city_SE3_ego=dict(quat_wxyz=[.5 ** .5, 0, 0, .5 ** .5], translation=[10, 20, 30]))
    (folder / 'annotations.json').write_text(json.dumps(dict(frames=[frame])))
    return folder


def test_argoverse2(tmp_path, scope):
    """Any LiDAR set with infos loads, and its classes are those of the infos."""
    lines = argoverse2.convert(write_sweeps(tmp_path / 'in'), tmp_path / 'out')
    assert lines == {'infos': '1 sweeps, 1 BUS, 9 points'}
    pose = np.array(load_infos(tmp_path / 'out/infos.pkl')['data_list'][0]['ego2global'])
    assert (pose @ (1, 0, 0, 1)).tolist() == pytest.approx([10, 21, 30, 1]), 'ahead is now the city\'s y'
    config = dict(type='mmpapers.LidarInfosDataset', data_root=str(tmp_path / 'out'), ann_file='infos.pkl',
                  data_prefix=dict(pts=''), pipeline=PIPELINE, test_mode=True)
    dataset = DATASETS.build(config)
    assert dataset.metainfo['classes'] == argoverse2.CLASSES
    sample = dataset[0]
    truth = sample['data_samples'].eval_ann_info
    assert truth['gt_labels_3d'].tolist() == [argoverse2.CLASSES.index('BUS')]
    assert truth['gt_bboxes_3d'].gravity_center.tolist() == [[3, 1, .5]]
    assert truth['gt_bboxes_3d'].points_in_boxes_all(sample['inputs']['points'][:, :3]).sum() == 5
    chosen = DATASETS.build(dict(config, metainfo=dict(classes=['TRUCK', 'BUS'])))
    assert chosen[0]['data_samples'].eval_ann_info['gt_labels_3d'].tolist() == [1]
    counted = [len(DATASETS.build(dict(config, min_points=least))[0]['data_samples'].eval_ann_info['gt_labels_3d'])
               for least in (5, 6)]
    assert counted == [1, 0], 'the bus holds 5 points'
    other = DATASETS.build(dict(config, metainfo=dict(classes=['DOG'])))
    assert len(other[0]['data_samples'].eval_ann_info['gt_bboxes_3d']) == 0
    with pytest.raises(ValueError, match='metainfo.classes names BUSS, which infos.pkl has not'):
        DATASETS.build(dict(config, metainfo=dict(classes=['BUSS'])))
    for categories, message in (({}, 'has no metainfo.categories'), (dict(A=0, B=2), 'without gaps')):
        (tmp_path / 'out/infos.pkl').write_bytes(pickle.dumps(dict(metainfo=dict(categories=categories), data_list=[])))
        with pytest.raises(ValueError, match=message):
            DATASETS.build(config)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(category='UFO'), "unknown category 'UFO'"), (dict(size_lwh=[1, 0, 1]), 'has no volume')])
def test_argoverse2_damaged(tmp_path, changes, message):
    with pytest.raises(ConversionError, match=message):
        argoverse2.convert(write_sweeps(tmp_path / 'in', **changes), tmp_path / 'out')


@pytest.mark.parametrize('name', ['kitti', 'infos', 'argoverse2'])
def test_command_lines(tmp_path, name):
    """The tools start, explain themselves and answer a wrong source with one line and code 2."""
    tool = [sys.executable, str(ROOT / f'tools/dataset_converters/{name}.py')]
    done = subprocess.run([*tool, str(tmp_path), '--out', str(tmp_path / 'out')], capture_output=True, text=True)
    assert done.returncode == 2 and str(tmp_path) in done.stderr and 'Traceback' not in done.stderr


# --- infos -----------------------------------------------------------------------------------------------------------

class Trap:
    """Would write a file when it is unpickled."""

    def __reduce__(self):
        return builtins.exec, ("open('trap', 'w').close()",)


def test_load_infos_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'a.pkl'
    content = dict(metainfo={}, data_list=[dict(x=np.eye(2), y=np.float32(3), z=[1, None])])
    path.write_bytes(pickle.dumps(content))
    assert load_infos(path)['data_list'][0]['x'].tolist() == [[1, 0], [0, 1]]
    path.write_bytes(pickle.dumps(dict(content, more=Trap())))
    with pytest.raises(InfoError, match='builtins.exec, which reading could run'):
        load_infos(path)
    assert not (tmp_path / 'trap').exists()
    for data, message in ((b'nonsense', 'cannot be read'), (pickle.dumps(content)[:-9], 'cannot be read'),
                          (pickle.dumps([1]), 'mmdet3d before 1.1'), (pickle.dumps({}), 'no `metainfo`')):
        path.write_bytes(data)
        with pytest.raises(InfoError, match=message):
            load_infos(path)
    with pytest.raises(InfoError, match='is 0 MiB'):
        load_infos(path, limit=1)


def test_faults():
    box = dict(bbox_3d=[0, 0, 0, 1, 1, 1, 0], bbox_label_3d=0)
    camera = dict(img_path='a', cam2img=np.eye(3).tolist(), lidar2cam=np.eye(4).tolist())
    good = dict(lidar_points=dict(lidar_path='a'), images=dict(CAM2=camera, R0_rect=[]), instances=[
        box, dict(bbox_3d=[-1] * 7, bbox_label_3d=-1), dict(box, bbox_3d=[0, 0, 0, 1, 1, 1])])
    assert list(faults([good], 1, ('*',))) == list(faults([good], 1, ('CAM2',))) == []
    found = [fault.kind for fault in faults([
        {}, dict(good, images={}), dict(good, images=dict(CAM2=dict(camera, cam2img=[[np.nan] * 3] * 3))),
        dict(good, instances=[dict(box, bbox_3d=[0, 0, np.inf, 1, 1, 1, 0]), dict(box, bbox_3d=[0, 0]),
                              dict(box, bbox_3d=[0, 0, 0, 1, 1, -1, 0]), dict(box, bbox_label_3d=1), {}])],
        1, ('CAM2',))]
    assert found == ['file', 'calibration', 'calibration', 'calibration', 'calibration', 'calibration', 'box', 'box',
                     'volume', 'label', 'label']


# --- the checker -----------------------------------------------------------------------------------------------------

def findings(root, **changes):
    """What the checker says of the data alone, errors first."""
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                  dataset={**KITTI, 'data_root': str(root), **changes})
    cfg = Config(dict(default_scope='mmdet3d', val_dataloader=loader))
    return [f for f in check_config(cfg) if f.where.startswith('val_dataloader')]


def rewrite(root, change):
    path = root / 'kitti_infos_val.pkl'
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content))


def test_check_finds_nothing(kitti_set):
    found = findings(kitti_set)
    assert [f.level for f in found] == ['info']
    assert found[0].message.startswith('kitti_infos_val.pkl: 3 frames, 3 Car, 3 Pedestrian, 3 Cyclist, 3 of other cla')
    assert ' points in 3 files read.' in found[0].message


def frame(content, index=1):
    return content['data_list'][index]


@pytest.mark.parametrize(('damage', 'message', 'fix'), [
    (lambda r: rewrite(r, lambda c: frame(c)['images']['CAM2'].pop('lidar2cam')),
     '1 of 3 frames of kitti_infos_val.pkl lack calibration, e.g. frame 1: images.CAM2.lidar2cam', 'add the calib'),
    (lambda r: rewrite(r, lambda c: frame(c)['instances'][0]['bbox_3d'].__setitem__(4, 0.)),
     'have a box without volume, e.g. frame 1: object 0', 'correct or remove'),
    (lambda r: rewrite(r, lambda c: frame(c)['instances'][0]['bbox_3d'].__setitem__(0, float('nan'))),
     'have a box that is not finite', 'correct or remove'),
    (lambda r: rewrite(r, lambda c: frame(c)['instances'][0].update(bbox_label_3d=8)),
     'no class of the data set, e.g. frame 1: object 0 has the label 8', 'data set class'),
    (lambda r: rewrite(r, lambda c: c.update(metainfo=dict(categories=dict(Tricycle=0)))),
     "Label 0 is 'Tricycle' in the infos but 'Pedestrian'", 'mmpapers.LidarInfosDataset'),
    (lambda r: rewrite(r, lambda c: c['data_list'].clear()), 'lists no frame', 'ann_file'),
    (lambda r: (r / 'kitti_infos_val.pkl').write_bytes(pickle.dumps([])), 'mmdet3d before 1.1', 'copy the file again'),
    (lambda r: (r / 'kitti_infos_val.pkl').write_bytes(b'version https://git-lfs'), 'cannot be read', 'copy the file'),
    (lambda r: (r / 'training/velodyne_reduced/000001.bin').unlink(), '1 of 3 point files are missing', 'copy the fi'),
    (lambda r: (r / 'training/velodyne_reduced/000001.bin').write_bytes(b'1234567'), '1 of 3 point files.*truncated',
     'load_dim'),
    (lambda r: np.full((9, 4), np.inf, np.float32).tofile(r / 'training/velodyne_reduced/000001.bin'),
     '9 of 9 points are NaN', 'remove the frames'),
    (lambda r: (r / 'training/velodyne_reduced/000001.bin').write_bytes(b''), 'holds no point', 'remove the frames')])
def test_check_finds(kitti_source, damage, message, fix):
    kitti.convert(kitti_source, kitti_source)
    damage(kitti_source)
    import re
    hit = [f for f in findings(kitti_source) if f.level == 'error' and re.search(message, f.message)]
    assert len(hit) == 1 and fix in hit[0].fix


@pytest.mark.parametrize(('changes', 'message', 'fix'), [
    (dict(metainfo=dict(classes=['Car', 'Pedestrain'])), "does not know the class 'Pedestrain'; did you mean `Pedest",
     "classes=('Pedestrian'"),
    (dict(pipeline=[dict(PIPELINE[0], load_dim=5), PIPELINE[2]]),
     'reads points of 5 numbers; the infos say that the files have 4', 'load_dim=4'),
    (dict(pipeline=[dict(PIPELINE[0], use_dim=[0, 1, 2, 4]), PIPELINE[2]]), 'uses 5 numbers of each point but loads 4',
     'load_dim=5'),
    (dict(pipeline=[PIPELINE[0], dict(PIPELINE[1], point_cloud_range=[80, 0, 0, 90, 9, 9]), PIPELINE[2]]),
     r'at most 0.0% lie within the point_cloud_range', 'correct point_cloud_range'),
    (dict(metainfo=dict(classes=['Tram'])), 'No object of kitti_infos_val.pkl is of the classes Tram', 'Car'),
    (dict(pipeline=[*PIPELINE[:1], dict(type='ObjectSample', db_sampler=dict(info_path='nowhere.pkl')), PIPELINE[2]]),
     'ObjectSample needs nowhere.pkl', 'take ObjectSample out')])
def test_check_config_against_data(kitti_set, changes, message, fix):
    import re
    hit = [f for f in findings(kitti_set, **changes) if f.level == 'error' and re.search(message, f.message)]
    assert len(hit) == 1 and fix in hit[0].fix


def test_check_takes_classes_from_infos(tmp_path):
    argoverse2.convert(write_sweeps(tmp_path / 'in'), tmp_path / 'out')
    common = dict(data_prefix=dict(pts=''), ann_file='infos.pkl')
    found = findings(tmp_path / 'out', type='mmpapers.LidarInfosDataset', metainfo=dict(classes=['BUS']), **common)
    assert [f.level for f in found] == ['info'] and '1 BUS; 9 points in 1 files' in found[0].message
    found = findings(tmp_path / 'out', type='NuScenesDataset', metainfo=dict(classes=['bus']), **common)
    assert found[0].level == 'error' and "Label 0 is 'ANIMAL' in the infos but 'car'" in found[0].message
