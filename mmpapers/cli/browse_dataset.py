"""``tools/analysis_tools/browse_dataset.py``: draw samples as the model sees them, after augmentation."""

import argparse
import copy
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmpapers import compat

from . import console, runtime
from .check import add_config_arguments

COLOURS = np.random.default_rng(3).permutation(
    cv2.cvtColor(np.stack([np.arange(0, 180, 180 / 64), np.full(64, 200), np.full(64, 230)], 1)[None].astype(np.uint8),
                 cv2.COLOR_HSV2RGB)[0])


def samples(cfg: Config, split: str, count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Draw samples of a data set.

    Args:
        cfg: The config.
        split: ``'train'``, ``'val'`` or ``'test'``.
        count: How many samples.
        seed: Of the augmentation and of the choice.

    Yields:
        File name without ending, and the picture (H, W, 3) in RGB.

    Raises:
        UserError: If the config has no such data set, or it is empty.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise runtime.UserError(f'the config has no `{split}_dataloader`')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataset = DATASETS.build(copy.deepcopy(loader['dataset']))
    if not len(dataset):
        raise runtime.UserError(f'the {split} set is empty; `mmpapers check` says why', code=1)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for index in sorted(chosen.tolist()):
        item = dataset[index]
        sample = item['data_samples']
        if not isinstance(item['inputs'], torch.Tensor):
            raise runtime.UserError('browse_dataset draws images; this data set gives point clouds')
        image = item['inputs'].permute(1, 2, 0).numpy()  # (H, W, 3)
        image = np.clip(image, 0, 255).astype(np.uint8)[..., ::-1]  # mmcv loads BGR
        path = sample.metainfo.get('img_path') or f'{index:06d}'
        yield Path(path).stem, draw(np.ascontiguousarray(image), sample, dict(dataset.metainfo))


def draw(image: np.ndarray, sample: Any, meta: dict) -> np.ndarray:
    """Draw the annotations of a sample.

    Args:
        image: RGB picture (H, W, 3).
        sample: A ``DetDataSample`` or ``SegDataSample``.
        meta: Meta information of the data set: ``classes``, ``palette``.

    Returns:
        The picture with boxes, masks and labels drawn.
    """
    image = image.copy()
    classes = meta.get('classes') or ()
    palette = np.array(meta['palette'], dtype=np.uint8) if _usable(meta.get('palette'), classes) else COLOURS
    if 'gt_sem_seg' in sample:
        image = _segments(image, np.asarray(sample.gt_sem_seg.data)[0], palette, classes)
    if 'gt_instances' in sample:
        image = _instances(image, sample.gt_instances, palette, classes)
    return image


def _usable(palette: Any, classes: Sequence[str]) -> bool:
    """Whether a palette has a colour for every class."""
    return isinstance(palette, (list, tuple)) and len(palette) >= max(len(classes), 1)


def _segments(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Lay label colours over a picture and name the largest segments; ignored pixels are left darker."""
    known = labels < len(classes) if classes else labels < 255
    colour = palette[np.where(known, labels, 0) % len(palette)]
    image = np.where(known[..., None], 0.45 * image + 0.55 * colour, 0.35 * image).astype(np.uint8)
    for value in np.unique(labels[known]):
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8))
        if count < 2:
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[largest, cv2.CC_STAT_AREA] >= 0.004 * labels.size:
            x, y, w, h = stats[largest, :4]
            name = str(classes[value]) if value < len(classes) else str(value)
            _text(image, name, int(x + w / 2 - 4 * len(name)), int(y + h / 2), palette[value % len(palette)])
    return image


def _instances(image: np.ndarray, found: Any, palette: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draw boxes, names and, where there are any, masks."""
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).reshape(-1, 4).numpy()
    labels = found.labels.numpy()
    if 'masks' in found:
        masks = found.masks.to_ndarray() if hasattr(found.masks, 'to_ndarray') else np.asarray(found.masks)
        for mask, label in zip(masks.astype(bool), labels):
            image[mask] = (0.55 * image[mask] + 0.45 * palette[label % len(palette)]).astype(np.uint8)
    thick = max(1, round(min(image.shape[:2]) / 300))
    for box, label in zip(boxes.round().astype(int).tolist(), labels):
        colour = palette[label % len(palette)]
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), colour.tolist(), thick, cv2.LINE_AA)
    for box, label in zip(boxes.round().astype(int).tolist(), labels):
        name = str(classes[label]) if label < len(classes) else str(label)
        _text(image, name, box[0], box[1] + 10, palette[label % len(palette)])
    return image


def _text(image: np.ndarray, text: str, x: int, y: int, colour: np.ndarray) -> None:
    """Write a label on a patch of its colour, inside the picture."""
    scale = max(0.32, min(image.shape[:2]) / 1100)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = min(max(x, 0), max(image.shape[1] - width, 0)), min(max(y, height), image.shape[0] - below)
    cv2.rectangle(image, (x, y - height - 1), (x + width, y + below - 1), colour.tolist(), -1)
    ink = (0, 0, 0) if colour.astype(int) @ (3, 6, 1) > 1300 else (255, 255, 255)
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put pictures into one, each scaled into a cell of the median size, aspect kept.

    Args:
        pictures: RGB pictures of any sizes.
        columns: Pictures in a row.

    Returns:
        One RGB picture with a thin border between the cells.
    """
    columns = min(columns, len(pictures))
    height, width = (int(np.median([p.shape[i] for p in pictures])) for i in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 4) - 4, columns * (width + 4) - 4, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        scaled = mmcv.imrescale(picture, (width, height))[:height, :width]
        y, x = i // columns * (height + 4), i % columns * (width + 4)
        sheet[y:y + scaled.shape[0], x:x + scaled.shape[1]] = scaled
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pictures.

    Returns:
        0; 1 if the data set is empty; 2 if the config or the arguments are wrong.
    """
    parser = argparse.ArgumentParser('browse_dataset', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--output-dir', default='browse', help='where the pictures go (default: %(default)s)')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train')
    parser.add_argument('--number', type=int, default=12, help='how many samples (default: %(default)s)')
    parser.add_argument('--grid', type=int, metavar='COLUMNS', help='one picture grid.png with this many columns')
    parser.add_argument('--seed', type=int, default=0, help='of the choice and of the augmentation')
    args = parser.parse_args(argv)
    if args.number < 1 or (args.grid is not None and args.grid < 1):
        parser.error('--number and --grid must be at least 1')
    return runtime.run(lambda: _write(args))


def _write(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        drawn = list(samples(cfg, args.split, args.number, args.seed))
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    pictures = [('grid', grid([picture for _, picture in drawn], args.grid))] if args.grid else \
        [(f'{i:04d}_{name}', picture) for i, (name, picture) in enumerate(drawn)]
    for name, picture in pictures:
        mmcv.imwrite(np.ascontiguousarray(picture[..., ::-1]), str(out / f'{name}.png'))
    print(f'{len(drawn)} samples of the {args.split} set drawn into {out / (pictures[0][0] + ".png")}'
          + (f' and {len(pictures) - 1} more' if len(pictures) > 1 else ''))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
