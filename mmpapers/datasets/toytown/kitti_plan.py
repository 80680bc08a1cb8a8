"""A folder of Toytown scenes as KITTI's object benchmark, with what mmdet3d derives from it: infos and database."""

import hashlib
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import write_atomic
from . import ToytownError
from .generate import Plan
from .kitti import (
    IMAGES_PER_SPLIT,
    calib_text,
    frame_id,
    info,
    inside,
    label_rows,
    lidar_boxes,
    metainfo,
    projection,
    rectify,
    sweep_info,
    velo_to_cam,
)
from .labels import SPLITS
from .lidar import SWEEP_TIME, Lidar, conceptual, sample_motion, scan
from .render import render
from .scene import Scene, sample_scene
from .view import look
from .writers import encode_image

_DATABASE = 'kitti_gt_database'
_TWIN = 'conceptual'


@dataclass(frozen=True)
class KittiPlan(Plan):
    """A KITTI folder.

    Args:
        train: Number of training scenes.
        val: Number of validation scenes.
        test: Number of test scenes.
        seed: Seed of the data set.
        size: Image width and height in pixels; KITTI's difficulties count pixels, so twice the camera part's.
        sensor: The LiDAR.
        sweeps: Scans of the past that are written for each frame, 0.1 s apart.
        images: Whether to draw the pictures, which takes most of the time.
        conceptual: Whether to write the clouds in which each labelled object is scanned alone and densely.
    """

    train: int = 300
    size: tuple[int, int] = (640, 384)
    sensor: Lidar = field(default_factory=Lidar)
    sweeps: int = 0
    images: bool = True
    conceptual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sweeps <= 10:
            raise ToytownError(f'toytown: --sweeps {self.sweeps} must lie in 0 to 10')
        if max(self.train, self.val, self.test) > IMAGES_PER_SPLIT:
            raise ToytownError(f'toytown: a split of a KITTI folder holds at most {IMAGES_PER_SPLIT} scenes')

    def parameters(self) -> dict:
        """The plan and the generator's version, as the manifest holds them."""
        return dict(kind='kitti', **super().parameters())

    def folders(self) -> list[str]:
        """Folders that frames are written to."""
        kinds = ['velodyne', 'velodyne_reduced', 'labels', 'calib', 'label_2', *['image_2'] * self.images,
                 *['sweeps', 'poses'] * bool(self.sweeps)]
        bases = ['', f'{_TWIN}/'] if self.conceptual else ['']
        return [*(f'training/{kind}' for kind in kinds), *(base + _DATABASE for base in bases),
                *[f'{_TWIN}/velodyne'] * self.conceptual]

    def files(self, split: str, index: int) -> list[str]:
        """Files of one frame, those of the database left out."""
        stem = f'{frame_id(SPLITS.index(split), index):06d}'
        names = [f'training/velodyne/{stem}.bin', f'training/velodyne_reduced/{stem}.bin',
                 f'training/labels/{stem}.label', f'training/calib/{stem}.txt', f'training/label_2/{stem}.txt']
        names += [f'training/image_2/{stem}.png'] * self.images + [f'{_TWIN}/velodyne/{stem}.bin'] * self.conceptual
        if self.sweeps:
            names += [f'training/poses/{stem}.txt',
                      *(f'training/sweeps/{stem}_{sweep}.bin' for sweep in range(1, self.sweeps + 1))]
        return names

    def make(self, folder: Path, split: str, index: int) -> dict:
        """Write the files of one frame; return its record."""
        scene = rectify(sample_scene(self.seed, split, index), self.size)
        stem, view = f'{frame_id(*scene.key[1:]):06d}', look(scene)
        seen = scan(scene, self.sensor)
        rows = label_rows(scene, view, seen)
        known = [row for row in rows if row.name != 'DontCare']
        boxes = lidar_boxes(known, velo_to_cam(scene, self.sensor))
        files = {
            f'velodyne/{stem}.bin': seen.points.astype('<f4').tobytes(),
            f'velodyne_reduced/{stem}.bin': self._reduced(scene, seen.points).astype('<f4').tobytes(),
            f'labels/{stem}.label': seen.label.astype('<u4').tobytes(),
            f'calib/{stem}.txt': calib_text(scene, self.sensor).encode(),
            f'label_2/{stem}.txt': ''.join(f'{row}\n' for row in rows).encode()}
        sweeps = self._sweeps(scene, stem, files)
        digest = hashlib.sha256(b''.join(files.values()))
        if self.images:
            files[f'image_2/{stem}.png'] = encode_image(render(scene, view), '.png')
        files = {f'training/{name}': data for name, data in files.items()}
        clouds = {'': seen.points}
        if self.conceptual:
            clouds[f'{_TWIN}/'] = conceptual(scene, self.sensor, seen, [row.index for row in known])[0]
            files[f'{_TWIN}/velodyne/{stem}.bin'] = clouds[f'{_TWIN}/'].astype('<f4').tobytes()
            digest.update(files[f'{_TWIN}/velodyne/{stem}.bin'])
        database = []
        for base, points in clouds.items():
            cut = [points[inside(points, box)] for box in boxes]
            if split == 'train':
                for order, (row, box, part) in enumerate(zip(known, boxes, cut)):
                    part = part - np.append(box[:3], 0).astype(np.float32)
                    files[f'{base}{_DATABASE}/{int(stem)}_{row.name}_{order}.bin'] = part.astype('<f4').tobytes()
            database.append([len(part) for part in cut])
        for name, data in files.items():
            write_atomic(folder / name, data)
        entry = info(scene, self.sensor, rows, database[0], sweeps)
        digest.update(json.dumps(entry, sort_keys=True).encode())
        return dict(info=entry, boxes=boxes.tolist(), points=database, sha256=digest.hexdigest())

    def _reduced(self, scene: Scene, points: np.ndarray) -> np.ndarray:
        """The points inside the image."""
        matrix = projection(scene) @ velo_to_cam(scene, self.sensor)
        u, v, depth = ((points[:, :3] * matrix[axis, :3]).sum(1) + matrix[axis, 3] for axis in range(3))
        return points[(depth > 0) & (u >= 0) & (u <= depth * (self.size[0] - 1)) & (v >= 0)
                      & (v <= depth * (self.size[1] - 1))]

    def _sweeps(self, scene: Scene, stem: str, files: dict[str, bytes]) -> list[dict]:
        """Add earlier scans and their poses to ``files``; return their entries."""
        motion, entries, lines = sample_motion(scene), [], []
        home = np.linalg.inv(motion.sensor_pose(scene, self.sensor, 0.0).matrix)
        for sweep in range(self.sweeps + 1) if self.sweeps else ():
            time, name = -SWEEP_TIME * sweep, f'{stem}_{sweep}.bin'
            pose = np.round(home @ motion.sensor_pose(scene, self.sensor, time).matrix, 9) + 0.0
            lines.append(' '.join(f'{value:.9f}' for value in pose[:3].flat) + '\n')
            if sweep:
                files[f'sweeps/{name}'] = scan(scene, self.sensor, motion, sweep).points.astype('<f4').tobytes()
                entries.append(sweep_info(name, time, pose))
        if lines:
            files[f'poses/{stem}.txt'] = ''.join(lines).encode()
        return entries

    def joined(self, split: str, records: list[dict]) -> dict[str, bytes]:
        """Split list, infos and, of the training split, the databases of objects."""
        entries = [record['info'] for record in records]
        files = {
            f'ImageSets/{split}.txt': ''.join(f'{entry["sample_idx"]:06d}\n' for entry in entries).encode(),
            f'kitti_infos_{split}.pkl': pickle.dumps(dict(metainfo=metainfo(), data_list=entries), protocol=4)}
        if split == 'train':
            for cloud, base in enumerate(('', f'{_TWIN}/') if self.conceptual else ('',)):
                files[f'{base}kitti_dbinfos_train.pkl'] = pickle.dumps(_database(records, cloud), protocol=4)
        return files

    def count(self, records: list[dict]) -> dict[str, int]:
        """What the manifest says of a split."""
        return dict(scans=len(records), objects=sum(len(record['boxes']) for record in records))


def _database(records: list[dict], cloud: int) -> dict[str, list[dict]]:
    """mmdet3d's ``dbinfos``: class to entries; objects keep their group over both clouds."""
    names = {index: name for name, index in metainfo()['categories'].items()}
    found: dict[str, list[dict]] = {}
    group = 0
    for record in records:
        number = record['info']['sample_idx']
        for order, box in enumerate(record['boxes']):
            instance = record['info']['instances'][order]
            name = names[instance['bbox_label']]
            found.setdefault(name, []).append(dict(
                name=name, path=f'{_DATABASE}/{number}_{name}_{order}.bin', image_idx=number, gt_idx=order,
                box3d_lidar=np.array(box, np.float32), num_points_in_gt=record['points'][cloud][order],
                difficulty=instance['difficulty'], group_id=group, score=0.0))
            group += 1
    return found
