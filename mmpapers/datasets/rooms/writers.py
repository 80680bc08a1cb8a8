"""Rooms as entries of mmdet3d's ScanNet and SUN RGB-D infos (version 1.1)."""

import math

import numpy as np

from ..toytown.draw import sincos
from .capture import Cloud, Shot, depth_to_image, upright
from .furniture import KINDS
from .room import Room

SCANNET = ('cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf', 'picture', 'counter', 'desk',
           'curtain', 'refrigerator', 'showercurtrain', 'toilet', 'sink', 'bathtub', 'garbagebin')
SUNRGBD = ('bed', 'table', 'sofa', 'chair', 'toilet', 'desk', 'dresser', 'night_stand', 'bookshelf', 'bathtub')
MIN_POINTS = 20  # of a scan on an object, to label it
PER_SPLIT = 10_000


def scannet_name(room: Room) -> str:
    """A scene name of ScanNet's form, unique over the splits."""
    return f'scene{room.key[1] * PER_SPLIT + room.key[2]:05d}_00'


def sunrgbd_name(room: Room) -> str:
    """A file name of SUN RGB-D's form, unique over the splits; numbers begin with 1."""
    return f'{room.key[1] * PER_SPLIT + room.key[2] + 1:06d}'


def align_matrix(turn: float, shift: tuple[float, float, float]) -> np.ndarray:
    """ScanNet's ``axis_align_matrix``: from the scan's frame to the room's (4, 4)."""
    sine, cosine = sincos(turn)
    matrix = np.eye(4)
    matrix[:2, :2] = (cosine, -sine), (sine, cosine)
    matrix[:3, 3] = shift
    return matrix


def scannet_points(cloud: Cloud, align: np.ndarray) -> np.ndarray:
    """x, y, z in the scan's frame and colours in 0 to 255, float32 (N, 6)."""
    x, y, z = (cloud.points[:, axis] - align[axis, 3] for axis in range(3))
    cosine, sine = align[0, 0], align[1, 0]
    raw = np.stack([cosine * x + sine * y, cosine * y - sine * x, z], 1)
    return np.concatenate([raw, np.round(cloud.colour * 255)], 1).astype('<f4')


def scannet_masks(room: Room, cloud: Cloud) -> tuple[np.ndarray, np.ndarray]:
    """Instance (1 + object, 0 for the room itself) and semantic mask (NYU's 40 classes), int64 (N,) each."""
    instance = np.where(cloud.body < len(room.objects), cloud.body + 1, 0)
    return instance.astype('<i8'), room.semantic[cloud.body].astype('<i8')


def scannet_info(room: Room, cloud: Cloud, align: np.ndarray) -> dict:
    """Entry of a scan; boxes lie along the axes of the aligned frame: centre and size."""
    instances = []
    for index, item in enumerate(room.objects):
        if item.category in SCANNET and np.count_nonzero(cloud.body == index) >= MIN_POINTS:
            low, high = room.bounds(index)
            box = [*((low + high) / 2).tolist(), *(high - low).tolist()]
            instances.append(dict(bbox_3d=box, bbox_label_3d=SCANNET.index(item.category)))
    name = f'{scannet_name(room)}.bin'
    return dict(lidar_points=dict(num_pts_feats=6, lidar_path=name), pts_semantic_mask_path=name,
                pts_instance_mask_path=name, axis_align_matrix=align.tolist(), instances=instances)


def sunrgbd_points(shot: Shot) -> np.ndarray:
    """x, y, z in the depth frame and colours in 0 to 1, float32 (N, 6)."""
    return np.concatenate([upright(shot.cloud.points, shot.camera), shot.cloud.colour], 1).astype('<f4')


def sunrgbd_info(room: Room, shot: Shot) -> dict:
    """Entry of a view; boxes are centre, size along their own axes, and yaw about z, counter-clockwise."""
    instances = []
    for index, item in enumerate(room.objects):
        name = KINDS[item.category].sunrgbd
        if not name or index not in shot.shown:
            continue
        rows, columns = np.nonzero(shot.body == index)
        x, y, z, length, width, height, yaw = item.box
        centre = upright(np.array([[x, y, z]]), shot.camera)[0]
        turn = yaw - shot.camera.yaw + math.pi / 2
        turn -= 2 * math.pi * math.floor(turn / (2 * math.pi) + 0.5)
        instances.append(dict(
            bbox=[float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())],
            bbox_3d=[*centre.tolist(), length, width, height, turn], bbox_label=SUNRGBD.index(name),
            bbox_label_3d=SUNRGBD.index(name)))
    camera = dict(depth2img=depth_to_image(shot.camera).tolist(), img_path=f'{sunrgbd_name(room)}.jpg',
                  height=shot.camera.height, width=shot.camera.width)
    return dict(lidar_points=dict(num_pts_feats=6, lidar_path=f'{sunrgbd_name(room)}.bin'), images=dict(CAM0=camera),
                instances=instances)


def infos(dataset: str, entries: list[dict]) -> dict:
    """An info file of ``scannet`` or ``sunrgbd``."""
    classes = SCANNET if dataset == 'scannet' else SUNRGBD
    return dict(metainfo=dict(categories={name: index for index, name in enumerate(classes)}, dataset=dataset,
                              info_version='1.1'), data_list=entries)
