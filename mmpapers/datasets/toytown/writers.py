"""Toytown in standard formats: COCO instances, Cityscapes-style label images, TuSimple lanes, KITTI-style depth."""

import json
from collections.abc import Sequence

import cv2
import numpy as np

from .annotate import Labels, lane_columns
from .labels import DETECTION
from .scene import Scene

# An object is annotated when at least this many pixels and this share of it can be seen.
MIN_PIXELS = 40
MIN_VISIBLE = 0.25
DEPTH_SCALE = 256  # steps of the 16-bit depth image per metre; 0 means no depth (sky, or 255 m and more)
_ANNOTATIONS_PER_IMAGE = 100
_IMAGES_PER_SPLIT = 1_000_000


def encode_image(image: np.ndarray, suffix: str) -> bytes:
    """Encode a grey or RGB image; JPEG with quality 95.

    Raises:
        RuntimeError: If the encoder fails.
    """
    done, data = cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise RuntimeError(f'toytown: OpenCV could not encode a {image.shape} image as {suffix}')
    return data.tobytes()


def depth_image(depth: np.ndarray) -> np.ndarray:
    """Depth in metres (H, W) as 16-bit steps of 1/256 m, 0 where there is none."""
    steps = np.floor(np.minimum(depth, 256.0) * DEPTH_SCALE + 0.5)
    return np.where(steps < 255 * DEPTH_SCALE, steps, 0).astype(np.uint16)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a boolean mask (H, W): column by column, zeros first."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def image_id(split: int, index: int) -> int:
    """Id of an image: unique over the splits, the same however many scenes are generated."""
    return split * _IMAGES_PER_SPLIT + index + 1


def coco_annotations(scene: Scene, labels: Labels) -> list[dict]:
    """COCO annotations of the objects that can be seen well enough.

    Boxes ``[x, y, w, h]`` are tight around the visible pixels and the area counts them. Further keys: ``visibility``
    (visible share of the pixels that the object would take alone inside the image), ``box3d`` (centre x, y, z, length,
    width, height in metres and yaw in radians, ego frame) and ``depth`` (of the 3D centre, metres).
    """
    height, width = labels.semantic.shape
    owner = image_id(*scene.key[1:])
    found = []
    for index, item in enumerate(scene.objects):
        mask = labels.instance == index + 1
        area = int(np.count_nonzero(mask))
        if area < MIN_PIXELS or area < MIN_VISIBLE * labels.covered[index]:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        depth = scene.camera.project(np.array(item.box[:3]))[1]
        found.append(dict(
            id=owner * _ANNOTATIONS_PER_IMAGE + index, image_id=owner, category_id=DETECTION.index(item.category) + 1,
            bbox=box, area=area, iscrowd=0, segmentation=dict(size=[height, width], counts=run_lengths(mask)),
            visibility=round(area / int(labels.covered[index]), 4), box3d=[round(v, 4) for v in item.box],
            depth=round(float(depth), 4)))
    return found


def coco_image(scene: Scene, file_name: str) -> dict:
    """COCO image entry, with the camera: ``K`` (3x3), ``ego_to_camera`` (4x4), and the weather."""
    return dict(id=image_id(*scene.key[1:]), file_name=file_name, width=scene.camera.width, height=scene.camera.height,
                weather=scene.weather.kind, K=scene.camera.intrinsics.round(6).tolist(),
                ego_to_camera=scene.camera.ego_to_camera.round(9).tolist())


def coco_file(images: Sequence[dict], annotations: Sequence[dict], description: str) -> bytes:
    """A COCO instances file."""
    categories = [dict(id=number, name=name, supercategory='road user') for number, name in enumerate(DETECTION, 1)]
    return json.dumps(dict(info=dict(description=description), images=list(images), annotations=list(annotations),
                           categories=categories), separators=(',', ':')).encode()


def lane_entry(scene: Scene, labels: Labels, raw_file: str) -> dict:
    """A line of a TuSimple file; lines seen in fewer than two rows are left out."""
    height = labels.semantic.shape[0]
    rows = list(range(height * 5 // 16, height, max(height // 48, 1)))
    columns = lane_columns(scene, labels, rows)
    return dict(lanes=[lane.tolist() for lane in columns if (lane >= 0).sum() >= 2], h_samples=rows, raw_file=raw_file)


def tusimple_file(entries: Sequence[dict]) -> bytes:
    """A TuSimple label file: one JSON object per line."""
    return ''.join(json.dumps(entry, separators=(',', ':')) + '\n' for entry in entries).encode()
