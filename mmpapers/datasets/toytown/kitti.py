"""A Toytown scene in KITTI's object format: calibration, labels, and the info of mmdet3d (version 1.1).

The picture is that of a rectified camera: at the scene camera's place and turned like it, but level, with the image
shifted instead of the lens pitched, as rectification does. So ``P2`` is ``K [I | 0]``, ``R0_rect`` is the identity,
``Tr_velo_to_cam`` a change of axes and a shift, and boxes are upright in the camera frame, as KITTI's labels assume.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from .annotate import annotate
from .draw import sincos
from .geometry import Camera, Primitives, cast_camera
from .lidar import Lidar, Pose, Scan
from .scene import Scene
from .view import View

NAMES = {'car': 'Car', 'van': 'Van', 'pedestrian': 'Pedestrian', 'cyclist': 'Cyclist'}
CATEGORIES = ('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')  # mmdet3d's order
MIN_VISIBLE = 0.1  # share of its pixels; an object of which less is seen, or without a single point, is DontCare
_OCCLUSION = (0.8, 0.4)  # visible share from which an object counts as fully visible, and as partly hidden
# Least height in pixels, most occlusion and most truncation of the difficulties easy, moderate and hard.
_DIFFICULTY = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))
IMAGES_PER_SPLIT = 100_000


def frame_id(split: int, index: int) -> int:
    """Number of a frame, unique over the splits and the same however many scenes are generated."""
    return split * IMAGES_PER_SPLIT + index


def rectify(scene: Scene, size: tuple[int, int]) -> Scene:
    """The same scene before a level camera with an image of ``size`` (width, height) and the same field of view."""
    camera, (width, height) = scene.camera, size
    focal = camera.focal / camera.width * width
    sine, cosine = sincos(camera.pitch)
    centre = (width - 1) / 2, round((height - 1) / 2 - focal * sine / cosine, 4)  # keeps the horizon's row
    return replace(scene, camera=Camera(width, height, focal, centre, camera.position, camera.yaw))


@dataclass(frozen=True)
class Row:
    """One line of a KITTI label file.

    Args:
        name: Class, or DontCare.
        truncated: Share of the projected box outside the image; -1 for DontCare.
        occluded: 0 visible, 1 partly, 2 largely hidden; -1 for DontCare.
        alpha: Observation angle, radians.
        bbox: Left, top, right, bottom pixel, as if nothing stood before the object, cut at the image's edge.
        size: Height, width, length in metres.
        location: Middle of the lower face in the rectified camera frame, metres.
        rotation_y: Heading about the camera's y axis, radians; 0 looks along x.
        index: Index in ``scene.objects``.
    """

    name: str
    truncated: float
    occluded: int
    alpha: float
    bbox: tuple[float, ...]
    size: tuple[float, ...]
    location: tuple[float, ...]
    rotation_y: float
    index: int

    def __str__(self) -> str:
        box = ' '.join(f'{value:.2f}' for value in self.bbox)
        body = ' '.join(f'{value:.4f}' for value in (*self.size, *self.location, self.rotation_y))
        return f'{self.name} {self.truncated:.2f} {self.occluded} {self.alpha:.4f} {box} {body}'

    @property
    def difficulty(self) -> int:
        """0 easy, 1 moderate, 2 hard, -1 none of them."""
        height = self.bbox[3] - self.bbox[1]
        return next((level for level, (least, hidden, cut) in enumerate(_DIFFICULTY) if height > least
                     and self.occluded <= hidden and self.truncated <= cut), -1) if self.name != 'DontCare' else -1


def wrap(angle: float) -> float:
    """The same direction in [-pi, pi)."""
    return angle - 2 * math.pi * math.floor(angle / (2 * math.pi) + 0.5)


def label_rows(scene: Scene, view: View, seen: Scan) -> list[Row]:
    """Label a rectified scene; objects that can hardly be perceived become DontCare, at the end.

    Args:
        scene: The scene, see :func:`rectify`.
        view: The rays of its camera.
        seen: What the LiDAR sees of it.
    """
    camera, labels = scene.camera, annotate(scene, view)
    rays = camera.directions()
    kept, ignored = [], []
    for index, item in enumerate(scene.objects):
        alone = Primitives.place([(item.parts, item.position, item.yaw)])
        shape = np.isfinite(cast_camera(camera, rays, alone)[0].distance)
        if not shape.any():
            continue
        rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
        bbox = tuple(float(edge) for edge in (columns[0], rows[0], columns[-1], rows[-1]))
        visible = np.count_nonzero(labels.instance == index + 1) / np.count_nonzero(shape)
        if visible < MIN_VISIBLE or not (seen.instance == index + 1).any():
            ignored.append(Row('DontCare', -1, -1, -10, bbox, (-1, -1, -1), (-1000, -1000, -1000), -10, index))
            continue
        x, y, z, length, width, height, yaw = item.box
        foot = camera.ego_to_camera @ np.array([x, y, z - height / 2, 1])
        location = tuple(round(float(value), 4) for value in foot[:3])
        rotation = round(wrap(camera.yaw - yaw - math.pi / 2), 4)
        kept.append(Row(
            NAMES[item.category], round(_truncation(camera, item.corners()), 2),
            sum(visible < share for share in _OCCLUSION), round(wrap(rotation - math.atan2(foot[0], foot[2])), 4), bbox,
            tuple(round(value, 4) for value in (height, width, length)), location, rotation, index))
    return kept + ignored


def _truncation(camera: Camera, corners: np.ndarray) -> float:
    """Share of the rectangle around the projected corners that lies outside the image."""
    pixels = camera.project(corners)[0]
    low, high = pixels.min(0), pixels.max(0)
    last = np.array([camera.width - 1, camera.height - 1])
    inside = np.maximum(np.minimum(high, last) - np.maximum(low, 0), 0)
    return float(1 - inside.prod() / (high - low).prod())


def velo_to_cam(scene: Scene, sensor: Lidar) -> np.ndarray:
    """``Tr_velo_to_cam`` of a rectified scene as a homogeneous matrix (4, 4)."""
    matrix = scene.camera.ego_to_camera @ Pose(0.0, 0.0, sensor.height, scene.camera.yaw).matrix
    return np.round(matrix, 9) + 0.0  # no negative zeros


def projection(scene: Scene) -> np.ndarray:
    """``P2`` of a rectified scene, homogeneous (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3] = scene.camera.intrinsics
    return matrix


def calib_text(scene: Scene, sensor: Lidar) -> str:
    """KITTI's calibration file; there is one camera, which all four projections name."""
    rows = {f'P{camera}': projection(scene)[:3] for camera in range(4)}
    rows |= {'R0_rect': np.eye(3), 'Tr_velo_to_cam': velo_to_cam(scene, sensor)[:3], 'Tr_imu_to_velo': np.eye(4)[:3]}
    return ''.join(f'{name}: {" ".join(f"{value:.12e}" for value in matrix.flat)}\n' for name, matrix in rows.items())


def lidar_boxes(rows: list[Row], transform: np.ndarray) -> np.ndarray:
    """Boxes of label rows in the LiDAR frame: middle of the lower face, length, width, height, yaw; (N, 7).

    Args:
        rows: Labels, none of them DontCare.
        transform: ``Tr_velo_to_cam`` (4, 4), a change of axes and a shift.
    """
    boxes = np.zeros((len(rows), 7))
    for box, row in zip(boxes, rows):
        height, width, length = row.size
        x, y, z = np.array(row.location) - transform[:3, 3]
        box[:] = z, -x, -y, length, width, height, wrap(-row.rotation_y - math.pi / 2)
    return boxes


def inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which points (N, 3+) lie in a LiDAR box (7,), its surface included; boolean (N,)."""
    sine, cosine = sincos(float(box[6]))
    dx, dy, dz = (points[:, axis].astype(np.float64) - box[axis] for axis in range(3))
    return ((np.abs(cosine * dx + sine * dy) <= box[3] / 2) & (np.abs(cosine * dy - sine * dx) <= box[4] / 2)
            & (dz >= 0) & (dz <= box[5]))


def info(scene: Scene, sensor: Lidar, rows: list[Row], counts: list[int], sweeps: list[dict] | None = None) -> dict:
    """mmdet3d's entry of a frame, as its KITTI converter writes it.

    Args:
        scene: The rectified scene.
        sensor: The LiDAR.
        rows: The frame's labels.
        counts: Points in the box of each row that is not DontCare.
        sweeps: Entries of earlier scans, see :func:`sweep_info`.
    """
    number = frame_id(*scene.key[1:])
    project, transform = projection(scene), velo_to_cam(scene, sensor)
    both = (project @ transform).tolist()
    cameras = {f'CAM{index}': dict(cam2img=project.tolist(), lidar2img=both) for index in range(4)}
    cameras['CAM2'] |= dict(img_path=f'{number:06d}.png', height=scene.camera.height, width=scene.camera.width,
                            lidar2cam=transform.tolist())
    instances = [_instance(row, project, order, counts) for order, row in enumerate(rows)]
    shared = ('bbox', 'bbox_label', 'bbox_3d', 'bbox_label_3d', 'center_2d', 'depth')
    entry = dict(
        sample_idx=number, images=dict(cameras, R0_rect=np.eye(4).tolist()),
        lidar_points=dict(num_pts_feats=4, lidar_path=f'{number:06d}.bin', Tr_velo_to_cam=transform.tolist(),
                          Tr_imu_to_velo=np.eye(4).tolist()),
        pts_semantic_mask_path=f'{number:06d}.label', instances=instances,
        cam_instances=dict(CAM2=[dict({key: item[key] for key in shared}, bbox_3d_isvalid=True) for item in instances
                                 if item['bbox_label'] >= 0]))
    if sweeps:
        entry |= dict(timestamp=0.0, lidar_sweeps=sweeps)
    return entry


def _instance(row: Row, project: np.ndarray, order: int, counts: list[int]) -> dict:
    """One of ``instances``; its 3D box is location, length, height, width and rotation_y."""
    height, width, length = row.size
    label = CATEGORIES.index(row.name) if row.name in CATEGORIES else -1
    x, y, z = row.location
    u, v, depth = (project[:3, :3] @ np.array([x, y - height / 2, z])).tolist()
    return dict(
        bbox=list(row.bbox), bbox_label=label, bbox_3d=[x, y, z, length, height, width, row.rotation_y],
        bbox_label_3d=label, center_2d=[u / depth, v / depth], depth=depth, truncated=row.truncated,
        occluded=row.occluded, alpha=row.alpha, score=0.0, index=order if label >= 0 else -1, group_id=order,
        difficulty=row.difficulty, num_lidar_pts=counts[order] if label >= 0 else -1)


def sweep_info(name: str, time: float, transform: np.ndarray) -> dict:
    """One of ``lidar_sweeps``.

    Args:
        name: File name.
        time: Seconds, not positive.
        transform: From the sweep's frame to the frame's own (4, 4). As in all of mmdet3d's infos, the rotation is
            stored transposed and the shift negated, although together they are not the inverse.
    """
    stored = np.eye(4)
    stored[:3, :3], stored[:3, 3] = transform[:3, :3].T, -transform[:3, 3]
    return dict(timestamp=time, lidar_points=dict(lidar_path=name, lidar2sensor=stored.tolist()))


def metainfo() -> dict:
    """``metainfo`` of an info file."""
    categories = {name: index for index, name in enumerate(CATEGORIES)} | {'DontCare': -1}
    return dict(categories=categories, dataset='kitti', info_version='1.1')
