"""KITTI's object folders to the infos (.pkl) that mmdet3d's ``KittiDataset`` and ``KittiMetric`` read."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import place, write_atomic
from ..points import PointFileError, in_box, read_points
from . import ConversionError, find_root, run

CLASSES = ('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')
# mmdet3d's prefixes for each split; the file lists of the splits are ImageSets/{train,val,test}.txt.
FOLDERS = {'train': 'training', 'val': 'training', 'test': 'testing'}
_MATRICES = {'P0': (3, 4), 'P1': (3, 4), 'P2': (3, 4), 'P3': (3, 4), 'R0_rect': (3, 3), 'Tr_velo_to_cam': (3, 4)}
_COLUMNS = 15
# Development kit: smallest height in pixels, largest occlusion and truncation of easy, moderate and hard objects.
_LEVELS = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))


@dataclass
class Frame:
    """What was read of one frame.

    Args:
        info: In mmdet3d's form.
        seen: (N,) which points the camera sees.
    """

    info: dict
    seen: np.ndarray

    @property
    def points(self) -> int:
        """Number of points that the camera sees."""
        return int(self.seen.sum())


def convert(source: Path, out: Path) -> dict[str, str]:
    """Write infos, and the part of each point cloud that the camera sees.

    Without ``ImageSets`` every labelled frame is in both train and val. Nothing is written before all files were
    checked. ``out`` may be the source itself.

    Args:
        source: Folder that holds ``training`` and maybe ``testing``, with ``calib``, ``image_2``, ``label_2`` and
            ``velodyne`` or ``velodyne_reduced``.
        out: Receives ``kitti_infos_{train,val,test}.pkl``, the cut-out objects ``kitti_gt_database`` with their list
            ``kitti_dbinfos_train.pkl``, and, per frame, ``image_2`` and ``velodyne_reduced``.

    Returns:
        A line per split: frames, objects by class, points.

    Raises:
        ConversionError: If a file is missing, truncated or unreadable, a calibration matrix is missing, a point is not
            finite, or a label has an unknown class or a box without volume.
    """
    root = find_root(source, 'kitti', 'training/calib')
    infos, lines = {}, {}
    done: dict[tuple[str, str], Frame] = {}
    for split, folder in FOLDERS.items():
        names, remark = _names(root, split)
        if not names:
            continue
        for name in names:
            if (folder, name) not in done:
                done[folder, name] = _frame(root / folder, name, labelled=split != 'test')
        frames = [done[folder, name] for name in names]
        categories = {**{name: index for index, name in enumerate(CLASSES)}, 'DontCare': -1}
        infos[split] = dict(metainfo=dict(categories=categories, dataset='kitti', info_version='1.1'),
                            data_list=[frame.info for frame in frames])
        counts = Counter(CLASSES[o['bbox_label_3d']] for frame in frames for o in frame.info.get('instances', ())
                         if o['bbox_label_3d'] >= 0)
        objects = ', '.join(f'{count} {name}' for name, count in counts.most_common()) or 'no labels'
        lines[split] = f'{len(names)} frames, {objects}, {sum(frame.points for frame in frames)} points{remark}'
    if not infos:
        raise ConversionError(f'{root} holds no frame; expected training/calib/000000.txt and the like')
    for (folder, name), frame in done.items():
        reduced = out / folder / 'velodyne_reduced' / f'{name}.bin'
        reduced.parent.mkdir(parents=True, exist_ok=True)
        if not reduced.exists():
            write_atomic(reduced, _cloud(root / folder, name)[frame.seen].tobytes())
        image = _image_path(root / folder, name)
        place(image, out / folder / 'image_2' / image.name)
    for split, content in infos.items():
        write_atomic(out / f'kitti_infos_{split}.pkl', pickle.dumps(content, protocol=4))
    if 'train' in infos:
        database = _database(infos['train']['data_list'], out)
        write_atomic(out / 'kitti_dbinfos_train.pkl', pickle.dumps(database, protocol=4))
    return lines


def _names(root: Path, split: str) -> tuple[list[str], str]:
    """Frames of a split, and what to say about them."""
    listed = root / 'ImageSets' / f'{split}.txt'
    if listed.is_file():
        return listed.read_text('utf-8').split(), ''
    parts = ('calib', 'image_2', 'label_2', 'velodyne', 'velodyne_reduced')
    names = sorted({path.stem for part in parts for path in (root / FOLDERS[split] / part).glob('*.*')})
    return names, f' (all of {FOLDERS[split]}: there is no ImageSets/{split}.txt)'


def _frame(folder: Path, name: str, labelled: bool) -> Frame:
    """Read and check one frame."""
    calib = read_calib(folder / 'calib' / f'{name}.txt')
    image = _image_path(folder, name)
    try:
        with Image.open(image) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError) as error:
        raise ConversionError(f'{image} cannot be decoded ({error}); copy the file again') from error
    lidar2cam = calib['R0_rect'] @ calib['Tr_velo_to_cam']
    cloud = _cloud(folder, name)
    seen = _seen(cloud, calib['P2'] @ lidar2cam, width, height)
    images = {f'CAM{i}': dict(cam2img=calib[f'P{i}'].tolist(), lidar2img=(calib[f'P{i}'] @ lidar2cam).tolist())
              for i in range(4)}
    images['CAM2'].update(img_path=image.name, height=height, width=width, lidar2cam=lidar2cam.tolist())
    images['R0_rect'] = calib['R0_rect'].tolist()
    info = dict(sample_idx=int(name) if name.isdigit() else name, images=images, lidar_points=dict(
        num_pts_feats=4, lidar_path=f'{name}.bin', Tr_velo_to_cam=calib['Tr_velo_to_cam'].tolist()))
    if labelled:
        rows = read_labels(folder / 'label_2' / f'{name}.txt')
        info['instances'] = _instances(rows, calib['P2'], lidar2cam, cloud[seen])
    return Frame(info, seen)


def read_calib(path: Path) -> dict[str, np.ndarray]:
    """Read a calibration file.

    Returns:
        P0 to P3, R0_rect and Tr_velo_to_cam, each filled up to (4, 4).

    Raises:
        ConversionError: If the file or a matrix is missing, or one is not complete.
    """
    if not path.is_file():
        raise ConversionError(f'{path} is missing: boxes and points cannot be brought together without calibration; '
                              'add the file, or take the frame out of '
                          'ImageSets')
    rows = dict(line.split(':', 1) for line in path.read_text('utf-8').splitlines() if ':' in line)
    rows.setdefault('R0_rect', rows.get('R_rect', ''))
    rows.setdefault('Tr_velo_to_cam', rows.get('Tr_velo_cam', ''))
    matrices = {}
    for key, shape in _MATRICES.items():
        try:
            numbers = np.array(rows.get(key, '').split(), np.float64)
        except ValueError:
            numbers = np.zeros(0)
        if numbers.size != shape[0] * shape[1] or not np.isfinite(numbers).all():
            raise ConversionError(f'{path}: {key} needs {shape[0] * shape[1]} numbers, found '
                                  f'{rows.get(key, "").strip() or "none"!r}')
        matrices[key] = np.eye(4)
        matrices[key][:shape[0], :shape[1]] = numbers.reshape(shape)
    return matrices


def read_labels(path: Path) -> list[tuple[str, np.ndarray]]:
    """Read a label file.

    Returns:
        Class and 14 numbers of each object; image regions without labels (DontCare) last.

    Raises:
        ConversionError: If the file is missing, a line is not complete, a class is unknown or a box has no volume.
    """
    if not path.is_file():
        raise ConversionError(f'{path} is missing; add the file (empty if nothing is to be seen), or take the frame '
                              'out of ImageSets')
    rows = []
    for number, line in enumerate(path.read_text('utf-8').splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = np.array(words[1:_COLUMNS], np.float64)
        except ValueError:
            values = np.zeros(0)
        if len(values) != _COLUMNS - 1 or not np.isfinite(values).all():
            raise ConversionError(f'{path}, line {number}: expected a class and {_COLUMNS - 1} numbers, found {line!r}')
        if words[0] not in CLASSES and words[0] != 'DontCare':
            raise ConversionError(f'{path}, line {number}: unknown class {words[0]!r}; the classes are '
                                  f'{", ".join(CLASSES)} and DontCare')
        if words[0] != 'DontCare' and (values[7:10] <= 0).any():
            raise ConversionError(f'{path}, line {number}: the box has no volume (height, width, length '
                                  f'{", ".join(words[8:11])}); correct or remove the line')
        rows.append((words[0], values))
    return sorted(rows, key=lambda row: row[0] == 'DontCare')


def _cloud(folder: Path, name: str) -> np.ndarray:
    """Points (N, 4) of a frame, the whole turn where there is one."""
    path = folder / 'velodyne' / f'{name}.bin'
    if not path.exists():
        path = folder / 'velodyne_reduced' / f'{name}.bin'
    try:
        points = read_points(path, 4)
    except PointFileError as error:
        raise ConversionError(f'{error}; copy the file again') from error
    if (points[:, 3] < 0).mean() > 0.01:
        raise ConversionError(f'{path}: the fourth number of many points is negative, so it is no reflectance; KITTI '
                              'has points of 4 float32, x, y, z, reflectance')
    return points


def _seen(points: np.ndarray, lidar2img: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which points (N,) lie in front of the camera and within its image."""
    u, v, depth = (points[:, :3] @ lidar2img[:3, :3].T + lidar2img[:3, 3]).T
    with np.errstate(divide='ignore', invalid='ignore'):
        return (depth > 0) & (u >= 0) & (u < width * depth) & (v >= 0) & (v < height * depth)


def _instances(rows: Sequence[tuple[str, np.ndarray]], cam2img: np.ndarray, lidar2cam: np.ndarray, cloud: np.ndarray
               ) -> list[dict]:
    """Objects in mmdet3d's form: camera boxes x, y (bottom), z, length, height, width, yaw."""
    instances = []
    for index, (name, v) in enumerate(rows):
        label = CLASSES.index(name) if name in CLASSES else -1
        size, place, yaw = v[[9, 7, 8]], v[10:13], v[13]
        projected = cam2img[:3, :3] @ (place - (0, size[1] / 2, 0)) + cam2img[:3, 3]
        instances.append(dict(
            bbox=v[3:7].tolist(), bbox_label=label, bbox_3d=[*place.tolist(), *size.tolist(), float(yaw)],
            bbox_label_3d=label, depth=float(projected[2]), center_2d=(projected[:2] / (projected[2] or 1)).tolist(),
            truncated=float(v[0]), occluded=int(v[1]), alpha=float(v[2]), score=0.0, index=index if label >= 0 else -1,
            group_id=index, difficulty=_difficulty(v), num_lidar_pts=-1))
        if label >= 0:
            instances[-1]['num_lidar_pts'] = len(in_box(cloud, lidar_box(instances[-1]['bbox_3d'], lidar2cam)))
    return instances


def lidar_box(box: Sequence[float], lidar2cam: np.ndarray) -> np.ndarray:
    """Box in the LiDAR's frame.

    Args:
        box: x, y (bottom), z, length, height, width, yaw in the camera's frame.
        lidar2cam: (4, 4).

    Returns:
        (7,) x, y, z of the centre, length, width, height, yaw in [-pi, pi).
    """
    x, y, z, length, height, width, yaw = box
    centre = np.linalg.inv(lidar2cam) @ (x, y - height / 2, z, 1)
    return np.array((*centre[:3], length, width, height, (-yaw - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi))


def _database(frames: Sequence[dict], out: Path) -> dict[str, list[dict]]:
    """Cut the training objects out, for mmdet3d's ``ObjectSample``; returns its list by class."""
    database: dict[str, list[dict]] = {name: [] for name in CLASSES}
    (out / 'kitti_gt_database').mkdir(exist_ok=True)
    for frame in frames:
        name = Path(frame['lidar_points']['lidar_path']).stem
        cloud = read_points(out / 'training/velodyne_reduced' / f'{name}.bin', 4)
        lidar2cam = np.array(frame['images']['CAM2']['lidar2cam'])
        for number, instance in enumerate(frame['instances']):
            if instance['bbox_label_3d'] < 0:
                continue
            label, box = CLASSES[instance['bbox_label_3d']], lidar_box(instance['bbox_3d'], lidar2cam)
            points = cloud[in_box(cloud, box)]
            box[2] -= box[5] / 2  # mmdet3d's boxes stand on their origin
            points[:, :3] -= box[:3].astype(np.float32)
            path = f'kitti_gt_database/{name}_{label}_{number}.bin'
            write_atomic(out / path, points.tobytes())
            database[label].append(dict(
                name=label, path=path, image_idx=frame['sample_idx'], gt_idx=number, box3d_lidar=box.astype(np.float32),
                num_points_in_gt=len(points), difficulty=instance['difficulty'], group_id=instance['group_id'],
                score=0.0))
    return database


def _difficulty(v: np.ndarray) -> int:
    """0 easy, 1 moderate, 2 hard, -1 none of them."""
    for level, (height, occlusion, truncation) in enumerate(_LEVELS):
        if v[6] - v[4] > height and v[1] <= occlusion and v[0] <= truncation:
            return level
    return -1


def _image_path(folder: Path, name: str) -> Path:
    """Left colour image of a frame."""
    for suffix in ('.png', '.jpg'):
        if (path := folder / 'image_2' / f'{name}{suffix}').is_file():
            return path
    raise ConversionError(f'{folder / "image_2" / name}.png is missing; add the file, or take the frame out of '
                          'ImageSets')


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(convert, "Write mmdet3d's infos for KITTI's object folders, with points per box and the points that the "
               'camera sees. To do it in place, give the same folder as --out, with --overwrite.',
               'folder with training/ and testing/', 'data/kitti', argv)
