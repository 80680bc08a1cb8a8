"""BCCD blood cells: Pascal VOC files of github.com/Shenggan/BCCD_Dataset to COCO files."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

from ..files import write_atomic
from . import ConversionError, find_root, run

CLASSES = ('RBC', 'WBC', 'Platelets')
SPLITS = ('train', 'val', 'test')


def convert(source: Path, out: Path) -> dict[str, str]:
    """Convert the data set.

    Boxes are ``x, y, xmax - xmin, ymax - ymin``, without VOC's offset of one pixel. Boxes without area are dropped,
    boxes that reach over the image's edge are cut to it; both are counted. Nothing is written before all files were
    checked.

    Args:
        source: Checked-out repository, or its folder ``BCCD``.
        out: Receives ``images/*.jpg`` and ``annotations/{train,val,test}.json``.

    Returns:
        A line per split: images, boxes, boxes dropped, boxes cut.

    Raises:
        ConversionError: If a split, image or annotation file is missing or unreadable, or a class is unknown.
    """
    root = find_root(source, 'BCCD', 'ImageSets/Main')
    files, lines, names = {}, {}, []
    for split in SPLITS:
        listed = _listed(root / 'ImageSets' / 'Main' / f'{split}.txt')
        coco, counts = _split(root, listed)
        files[split] = json.dumps(coco).encode()
        lines[split] = (f'{len(coco["images"])} images, {len(coco["annotations"])} boxes, {counts["dropped"]} without '
                        f'area dropped, {counts["cut"]} cut to the image')
        names += listed
    for folder in ('images', 'annotations'):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        write_atomic(out / 'images' / f'{name}.jpg', (root / 'JPEGImages' / f'{name}.jpg').read_bytes())
    for split, data in files.items():
        write_atomic(out / 'annotations' / f'{split}.json', data)
    return lines


def _listed(path: Path) -> list[str]:
    """Names in a split file."""
    if not path.is_file():
        raise ConversionError(f'{path} is missing; check the repository out completely')
    return path.read_text('utf-8').split()


def _split(root: Path, names: Sequence[str]) -> tuple[dict, Counter]:
    """COCO content of one split, and how many boxes were dropped or cut."""
    images, annotations, counts = [], [], Counter()
    for number, name in enumerate(names, 1):
        width, height = _size(root / 'JPEGImages' / f'{name}.jpg')
        images.append(dict(id=number, file_name=f'{name}.jpg', width=width, height=height))
        for label, box in _objects(root / 'Annotations' / f'{name}.xml'):
            left, top, right, bottom = (min(max(value, 0.0), edge) for value, edge in
                                        zip(box, (width, height, width, height)))
            if right <= left or bottom <= top:
                counts['dropped'] += 1
                continue
            counts['cut'] += [left, top, right, bottom] != box
            annotations.append(dict(
                id=len(annotations) + 1, image_id=number, category_id=CLASSES.index(label) + 1,
                bbox=[left, top, right - left, bottom - top], area=(right - left) * (bottom - top), iscrowd=0))
    categories = [dict(id=number, name=name, supercategory='') for number, name in enumerate(CLASSES, 1)]
    return dict(images=images, annotations=annotations, categories=categories), counts


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image, which is decoded as a check."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except FileNotFoundError:
        raise ConversionError(f'{path} is listed in a split but missing; check the repository out completely') from None
    except (UnidentifiedImageError, OSError) as error:
        raise ConversionError(f'{path} cannot be decoded ({error}); check the file out again') from error


def _objects(path: Path) -> list[tuple[str, list[float]]]:
    """Class and corners of each object of a VOC file."""
    if not path.is_file():
        raise ConversionError(f'{path} is missing; check the repository out completely')
    try:
        nodes = ElementTree.parse(path).getroot().findall('object')
        rows = [(node.findtext('name', '').strip(), [float(node.findtext(f'bndbox/{key}')) for key in
                                                     ('xmin', 'ymin', 'xmax', 'ymax')]) for node in nodes]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise ConversionError(f'{path} is damaged ({error}); check the file out again') from error
    for label, _ in rows:
        if label not in CLASSES:
            raise ConversionError(f'{path}: unknown class {label!r}; the classes are {", ".join(CLASSES)}')
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(convert, 'Convert BCCD (github.com/Shenggan/BCCD_Dataset, MIT licence) to COCO files for '
               'configs/_base_/datasets/bccd_detection.py.', 'checked-out repository', 'data/bccd', argv)
