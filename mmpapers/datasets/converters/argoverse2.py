"""Argoverse 2 sweeps with boxes, as plain files, to infos that ``mmpapers.LidarInfosDataset`` reads."""

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import place, write_atomic
from ..points import PointFileError, read_points
from . import ConversionError, run

# av2.datasets.sensor.constants.AnnotationCategories, in its order.
CLASSES = (
    'ANIMAL', 'ARTICULATED_BUS', 'BICYCLE', 'BICYCLIST', 'BOLLARD', 'BOX_TRUCK', 'BUS', 'CONSTRUCTION_BARREL',
    'CONSTRUCTION_CONE', 'DOG', 'LARGE_VEHICLE', 'MESSAGE_BOARD_TRAILER', 'MOBILE_PEDESTRIAN_CROSSING_SIGN',
    'MOTORCYCLE', 'MOTORCYCLIST', 'OFFICIAL_SIGNALER', 'PEDESTRIAN', 'RAILED_VEHICLE', 'REGULAR_VEHICLE', 'SCHOOL_BUS',
    'SIGN', 'STOP_SIGN', 'STROLLER', 'TRAFFIC_LIGHT_TRAILER', 'TRUCK', 'TRUCK_CAB', 'VEHICULAR_TRAILER', 'WHEELCHAIR',
    'WHEELED_DEVICE', 'WHEELED_RIDER')


def convert(source: Path, out: Path) -> dict[str, str]:
    """Write infos for annotated sweeps in the ego vehicle's frame (x forward, y left, z up).

    Args:
        source: Folder with ``annotations.json`` (``frames``: ``lidar``, ``timestamp_ns``, ``log_id``,
            ``city_SE3_ego`` and ``instances`` with ``category``, ``center``, ``size_lwh``, ``yaw`` and
            ``num_interior_pts``) and the sweeps, float32 x, y, z, intensity.
        out: Receives ``infos.pkl`` and the sweeps.

    Returns:
        A line that counts sweeps, objects by class and points.

    Raises:
        ConversionError: If a file is missing or damaged, a category is unknown, or a box has no volume.
    """
    path = source / 'annotations.json'
    try:
        frames = json.loads(path.read_text('utf-8'))['frames']
    except FileNotFoundError:
        raise ConversionError(f'{path} is missing; name the folder that holds it') from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f'{path} is damaged or has no frames ({error!r}); copy the file again') from error
    infos, counts, total = [], Counter(), 0
    for index, frame in enumerate(frames):
        try:
            total += len(read_points(source / frame['lidar'], 4))
        except PointFileError as error:
            raise ConversionError(f'frame {index}: {error}') from error
        instances = [_instance(path, index, instance) for instance in frame['instances']]
        counts.update(instance['category'] for instance in frame['instances'])
        infos.append(dict(
            sample_idx=index, token=f'{frame["log_id"]}_{frame["timestamp_ns"]}',
            timestamp=frame['timestamp_ns'] * 1e-9, ego2global=_pose(frame['city_SE3_ego']).tolist(),
            instances=instances, lidar_points=dict(num_pts_feats=4, lidar_path=frame['lidar'])))
    for frame in frames:
        place(source / frame['lidar'], out / frame['lidar'])
    content = dict(metainfo=dict(categories={name: i for i, name in enumerate(CLASSES)}, dataset='argoverse2',
                                 info_version='1.1'), data_list=infos)
    write_atomic(out / 'infos.pkl', pickle.dumps(content, protocol=4))
    objects = ', '.join(f'{count} {name}' for name, count in counts.most_common())
    return {'infos': f'{len(infos)} sweeps, {objects}, {total} points'}


def _instance(path: Path, frame: int, instance: dict) -> dict:
    """One object in mmdet3d's form."""
    name, size = instance.get('category'), instance['size_lwh']
    if name not in CLASSES:
        raise ConversionError(f'{path}, frame {frame}: unknown category {name!r}; the categories are '
                              f'{", ".join(CLASSES)}')
    box = [*instance['center'], *size, instance['yaw']]
    if not np.isfinite(box).all() or min(size) <= 0:
        raise ConversionError(f'{path}, frame {frame}: the box {box} of {name} {instance.get("track_uuid")} has no '
                              'volume or is not finite')
    return dict(bbox_3d=box, bbox_label_3d=CLASSES.index(name), bbox_label=CLASSES.index(name),
                num_lidar_pts=instance['num_interior_pts'], track_id=instance['track_uuid'])


def _pose(pose: dict) -> np.ndarray:
    """Matrix (4, 4) of a unit quaternion w, x, y, z and a translation."""
    w, x, y, z = pose['quat_wxyz']
    matrix = np.eye(4)
    matrix[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                      [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                      [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    matrix[:3, 3] = pose['translation']
    return matrix


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(convert, 'Write infos for Argoverse 2 sweeps with boxes (annotations.json and float32 files).',
               'folder with annotations.json', 'data/argoverse2', argv)
