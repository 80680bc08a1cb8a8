"""A contact sheet that shows what a generated folder holds, read back from its files."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..preview import check_suffix, write_sheet
from .generate import MANIFEST, ToytownError
from .labels import IGNORE, PALETTE, SPLITS
from .writers import DEPTH_SCALE

_VIVID = ((70, 170, 255), (255, 180, 40), (255, 60, 80), (230, 90, 255))  # by detection class


def write_preview(folder: Path, path: Path, count: int = 5) -> None:
    """Draw rows of picture, objects and lanes, classes, depth; as far as possible one row per weather.

    Args:
        folder: A complete Toytown folder.
        path: PNG or JPEG file to write.
        count: Number of scenes, of the first split that has any.

    Raises:
        ToytownError: If the folder is no complete set, or the file has another suffix.
    """
    check_suffix(path, 'toytown')
    if not (folder / MANIFEST).is_file():
        raise ToytownError(f'toytown: {folder} holds no {MANIFEST}')
    split = next(name for name in SPLITS if (folder / 'annotations' / f'instances_{name}.json').is_file())
    coco = json.loads((folder / 'annotations' / f'instances_{split}.json').read_text('utf-8'))
    lanes = [json.loads(line) for line in (folder / 'lanes' / f'{split}.json').read_text('utf-8').splitlines()]
    kinds = [image['weather'] for image in coco['images']]
    order = sorted(range(len(kinds)), key=lambda index: (kinds[:index].count(kinds[index]), index))
    write_sheet(path, [scene_row(folder, split, coco, lanes, index) for index in order[:count]])


def scene_row(folder: Path, split: str, coco: dict, lanes: list[dict], index: int) -> list[np.ndarray]:
    """The four pictures of one scene, RGB uint8 (H, W, 3) each."""
    entry = coco['images'][index]
    stem = Path(entry['file_name']).stem
    image = _read(folder / 'images' / split / f'{stem}.jpg', cv2.IMREAD_COLOR)[..., ::-1]
    classes = _read(folder / 'labels' / split / f'{stem}.png', cv2.IMREAD_UNCHANGED)
    depth = _read(folder / 'depth' / split / f'{stem}.png', cv2.IMREAD_UNCHANGED) / DEPTH_SCALE
    return [image, _objects(image, entry, coco['annotations'], lanes[index]), _colours(classes), _depth(depth)]


def _read(path: Path, mode: int) -> np.ndarray:
    image = cv2.imread(str(path), mode)
    if image is None:
        raise ToytownError(f'toytown: {path} cannot be read')
    return image


def _colours(classes: np.ndarray) -> np.ndarray:
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[:len(PALETTE)] = PALETTE
    return table[classes]


def _depth(depth: np.ndarray) -> np.ndarray:
    nearness = np.where(depth > 0, np.clip(4 / np.maximum(depth, 4), 0, 1) ** 0.7, 0)
    return cv2.applyColorMap((nearness * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]


def _objects(image: np.ndarray, entry: dict, annotations: list[dict], lane: dict) -> np.ndarray:
    canvas = image.copy()
    for line in lane['lanes']:
        for row, column in zip(lane['h_samples'], line):
            if column >= 0:
                cv2.circle(canvas, (column, row), 1, (40, 255, 120), -1)
    for item in annotations:
        if item['image_id'] != entry['id']:
            continue
        colour = _VIVID[item['category_id'] - 1]
        counts = np.array(item['segmentation']['counts'])
        mask = np.repeat(np.arange(len(counts)) % 2, counts).reshape(image.shape[1], image.shape[0]).T.astype(bool)
        canvas[mask] = (canvas[mask] * 0.6 + np.array(colour) * 0.4).astype(np.uint8)
        x, y, w, h = item['bbox']
        cv2.rectangle(canvas, (x, y), (x + w - 1, y + h - 1), colour, 1)
    return canvas
