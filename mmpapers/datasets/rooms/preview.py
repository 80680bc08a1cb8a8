"""A contact sheet of a rooms folder, drawn from its files: scan from above, picture with boxes, view from above."""

import pickle
from pathlib import Path

import cv2
import numpy as np

from ..preview import EDGES, check_suffix, write_sheet
from ..toytown import ToytownError
from ..toytown.labels import SPLITS

_REACH = 7.0  # metres that a view from above shows


def write_preview(folder: Path, path: Path, count: int = 4) -> None:
    """Draw rooms, one row each.

    Args:
        folder: A complete rooms folder.
        path: PNG or JPEG file to write.
        count: Number of rooms, of the first split that has any.

    Raises:
        ToytownError: If there is no split, or the file has another suffix.
    """
    check_suffix(path, 'rooms')
    split = next((name for name in SPLITS if (folder / f'scannet/scannet_infos_{name}.pkl').is_file()), None)
    if split is None:
        raise ToytownError(f'rooms: {folder} holds no scannet/scannet_infos_train.pkl')
    scans, views = (pickle.loads((folder / f'{kind}/{kind}_infos_{split}.pkl').read_bytes())['data_list'][:count]
                    for kind in ('scannet', 'sunrgbd'))
    write_sheet(path, [room_row(folder, scan, view) for scan, view in zip(scans, views)])


def room_row(folder: Path, scan: dict, view: dict) -> list[np.ndarray]:
    """The three pictures of one room, RGB uint8 (H, W, 3) each.

    Args:
        folder: A rooms folder.
        scan: Its entry of the ScanNet infos.
        view: Its entry of the SUN RGB-D infos.
    """
    camera = view['images']['CAM0']
    image = cv2.imread(str(folder / 'sunrgbd/sunrgbd_trainval/image' / camera['img_path']))
    canvas, height = np.ascontiguousarray(image[..., ::-1]), image.shape[0]
    points = np.fromfile(folder / 'scannet/points' / scan['lidar_points']['lidar_path'], np.float32).reshape(-1, 6)
    align = np.array(scan['axis_align_matrix'])
    points[:, :3] = points[:, :3] @ align[:3, :3].T + align[:3, 3]
    boxes = [np.array([*item['bbox_3d'], 0.0]) for item in scan['instances']]
    pictures = [_above(height, points, boxes, (0.0, 0.0), 255)]
    points = np.fromfile(folder / 'sunrgbd/points' / view['lidar_points']['lidar_path'], np.float32).reshape(-1, 6)
    boxes = [np.array(item['bbox_3d']) for item in view['instances']]
    project = np.array(camera['depth2img'])
    for item, box in zip(view['instances'], boxes):
        flat = _corners(box) @ project.T
        ends = np.round(flat[:, :2] / flat[:, 2:]).astype(int)
        for start, stop in EDGES if flat[:, 2].min() > 0.2 else ():
            cv2.line(canvas, tuple(map(int, ends[start])), tuple(map(int, ends[stop])), (40, 255, 120), 1, cv2.LINE_AA)
        left, top, right, bottom = map(int, item['bbox'])
        cv2.rectangle(canvas, (left, top), (right, bottom), (255, 180, 40), 1)
    return [*pictures, canvas, _above(height, points, boxes, (0.0, 2.6), 1)]


def _corners(box: np.ndarray) -> np.ndarray:
    """Corners (8, 3) of a box: centre, size, yaw."""
    sine, cosine = np.sin(box[6]), np.cos(box[6])
    return np.array([(box[0] + cosine * a - sine * b, box[1] + sine * a + cosine * b, box[2] + c)
                     for a in (-box[3] / 2, box[3] / 2) for b in (-box[4] / 2, box[4] / 2)
                     for c in (-box[5] / 2, box[5] / 2)])


def _above(height: int, points: np.ndarray, boxes: list[np.ndarray], middle: tuple[float, float],
           scale: float) -> np.ndarray:
    """Points in their colours and boxes from above; ``scale`` is the colours' largest value."""
    canvas = np.zeros((height, height, 3), np.uint8)

    def place(coordinates: np.ndarray) -> np.ndarray:
        offset = (coordinates[:, :2] - middle) * (height / _REACH)
        return np.round(height / 2 + offset * (1, -1)).astype(int)

    points = points[np.argsort(points[:, 2])]
    pixels = place(points)
    inside = ((pixels >= 0) & (pixels < height)).all(1)
    canvas[pixels[inside, 1], pixels[inside, 0]] = (points[inside, 3:6] / scale * 255).astype(np.uint8)
    for box in boxes:
        ends = place(_corners(box)[[0, 2, 6, 4]]).reshape(-1, 1, 2).astype(np.int32)
        cv2.polylines(canvas, [ends], True, (40, 255, 120), 1, cv2.LINE_AA)
    return canvas
