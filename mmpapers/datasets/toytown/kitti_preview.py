"""A contact sheet of a KITTI folder, drawn from its files: points and boxes in the picture and from above."""

from pathlib import Path

import cv2
import numpy as np

from ..preview import EDGES, check_suffix, write_sheet
from . import ToytownError
from .labels import SPLITS

COLOURS = {'Car': (70, 170, 255), 'Van': (255, 180, 40), 'Pedestrian': (255, 60, 80), 'Cyclist': (230, 90, 255)}
_REACH = 45.0  # metres ahead that the bird's-eye view shows


def write_kitti_preview(folder: Path, path: Path, count: int = 4) -> None:
    """Draw frames of a KITTI folder, one row each.

    Args:
        folder: A KITTI folder with ``training`` and ``ImageSets``.
        path: PNG or JPEG file to write.
        count: Number of frames, of the first split that has any.

    Raises:
        ToytownError: If there is no split, or the file has another suffix.
    """
    check_suffix(path, 'toytown')
    lists = [folder / 'ImageSets' / f'{split}.txt' for split in SPLITS]
    found = [file for file in lists if file.is_file()]
    if not found:
        raise ToytownError(f'toytown: {folder} holds no ImageSets/train.txt')
    write_sheet(path, [frame_row(folder / 'training', stem) for stem in found[0].read_text().split()[:count]])


def frame_row(folder: Path, stem: str) -> list[np.ndarray]:
    """Picture and bird's-eye view of one frame, RGB uint8 (H, W, 3) each.

    Args:
        folder: ``training`` of a KITTI folder.
        stem: File name of the frame without suffix.
    """
    points = np.fromfile(folder / f'velodyne/{stem}.bin', np.float32).reshape(-1, 4)
    calib = {name: np.array(row.split(), float) for name, row in
             (line.split(':') for line in (folder / f'calib/{stem}.txt').read_text().splitlines() if line)}
    to_camera = calib['R0_rect'].reshape(3, 3) @ calib['Tr_velo_to_cam'].reshape(3, 4)
    lines = [line.split() for line in (folder / f'label_2/{stem}.txt').read_text().splitlines()]
    boxes = [(line[0], _corners(*map(float, line[8:15]))) for line in lines if line[0] in COLOURS]
    image = cv2.imread(str(folder / f'image_2/{stem}.png'))
    canvas = np.zeros((384, 640, 3), np.uint8) if image is None else np.ascontiguousarray(image[..., ::-1])
    camera = points[:, :3] @ to_camera[:, :3].T + to_camera[:, 3]
    return [_picture(canvas, camera, boxes, calib['P2'].reshape(3, 4)), _above(canvas.shape[0], camera, boxes)]


def _corners(height: float, width: float, length: float, x: float, y: float, z: float, turn: float) -> np.ndarray:
    """Corners (8, 3) of a label's box in the camera frame."""
    sine, cosine = np.sin(turn), np.cos(turn)
    return np.array([(x + cosine * a + sine * c, y - b, z - sine * a + cosine * c) for a in (-length / 2, length / 2)
                     for b in (0, height) for c in (-width / 2, width / 2)])


def _picture(canvas: np.ndarray, camera: np.ndarray, boxes: list, projection: np.ndarray) -> np.ndarray:
    """Points, coloured by depth, and 3D boxes over the picture."""
    camera = camera[camera[:, 2] > 1]
    pixels = np.round(_project(camera, projection)).astype(int)
    shade = cv2.applyColorMap((np.clip(6 / camera[:, 2], 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, 0, ::-1]
    inside = ((pixels >= 0) & (pixels < canvas.shape[1::-1])).all(1)
    for (u, v), colour in zip(pixels[inside], shade[inside]):
        canvas[v, u] = colour
    for name, corners in boxes:
        if corners[:, 2].min() > 0.5:
            ends = np.round(_project(corners, projection)).astype(int)
            for start, stop in EDGES:
                cv2.line(canvas, tuple(map(int, ends[start])), tuple(map(int, ends[stop])), COLOURS[name], 1,
                         cv2.LINE_AA)
    return canvas


def _project(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    homogeneous = points @ projection[:, :3].T + projection[:, 3]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def _above(height: int, camera: np.ndarray, boxes: list) -> np.ndarray:
    """Points and boxes from above; the sensor stands at the middle of the lower edge, its view goes up."""
    canvas = np.zeros((height, height, 3), np.uint8)
    scale = height / _REACH

    def place(points: np.ndarray) -> np.ndarray:
        return np.round(np.stack([height / 2 + points[:, 0] * scale, height - 1 - points[:, 2] * scale], 1)).astype(int)

    shade = np.clip(90 + 55 * (1.7 - camera[:, 1]), 60, 255).astype(np.uint8)
    pixels = place(camera)
    inside = ((pixels >= 0) & (pixels < height)).all(1)
    canvas[pixels[inside, 1], pixels[inside, 0]] = shade[inside, None]
    for name, corners in boxes:
        ends = place(corners[[0, 1, 5, 4]])
        cv2.polylines(canvas, [ends.reshape(-1, 1, 2).astype(np.int32)], True, COLOURS[name], 1, cv2.LINE_AA)
        middle, front = ends.mean(0), ends[2:].mean(0)
        cv2.line(canvas, tuple(np.int32(middle).tolist()), tuple(np.int32(front).tolist()), COLOURS[name], 1,
                 cv2.LINE_AA)
    return canvas
