"""Doctor of detection data: COCO files and Pascal VOC folders."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from .finding import assignment, nearest
from .images import sample
from .leaves import Leaf, pipeline_argument
from .summary import Summary

_LARGE = 256 * 2 ** 20  # bytes; reading more would take longer than the rest of the checks together
_XML_SAMPLE = 500


def examine_coco(leaf: Leaf, file: Path) -> Summary:
    """Examine a COCO annotation file.

    Args:
        leaf: The data set.
        file: Its annotation file.
    """
    out = Summary()
    where = f'{leaf.where}.ann_file'
    if file.stat().st_size > _LARGE:
        out.add('info', where, f'{file} is {file.stat().st_size >> 20} MiB; its content was not examined.')
        return out
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        out.add(leaf.required, where, f'{file} is not a whole JSON file: {error}.', 'copy or export the file again')
        return out
    lacking = [name for name in ('images', 'annotations', 'categories')
               if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if lacking:
        out.add(leaf.required, where, f'{file} has no list `{"`, `".join(lacking)}`, so it is not a COCO file.',
                'convert the annotations to COCO format')
        return out
    images, annotations = content['images'], content['annotations']
    unsized = [image for image in images if not image.get('width') or not image.get('height')]
    if unsized:
        out.add(leaf.required, where, f'{len(unsized)} of {len(images)} images of {file.name} have no width or height, '
                f'e.g. {unsized[0].get("file_name")}.', 'add them to the annotation file')
        return out
    folder = leaf.path('img') or leaf.path('img_path') or Path(leaf.cfg.get('data_root') or '')
    out.images = [folder / image['file_name'] for image in images]
    out.sizes = {str(path): (image['height'], image['width']) for path, image in zip(out.images, images)}
    if images:
        _identities(out, leaf, images, annotations)
        _categories(out, leaf, content)
    kept = _boxes(out, leaf, images, annotations, content['categories'])
    _coco_counts(out, leaf, file, images, annotations, kept)
    if pipeline_argument(leaf, 'LoadAnnotations', 'with_mask') and annotations \
            and not any(annotation.get('segmentation') for annotation in annotations):
        out.add(leaf.required, f'{leaf.where}.pipeline',
                f'LoadAnnotations asks for masks, but no annotation of {file.name} has a `segmentation`.',
                "dict(type='LoadAnnotations', with_bbox=True)  # and a model without mask head")
    return out


def _identities(out: Summary, leaf: Leaf, images: list[dict], annotations: list[dict]) -> None:
    """Ids must be unique and refer to something."""
    where = f'{leaf.where}.ann_file'
    for name, rows in (('image', images), ('annotation', annotations)):
        double = [i for i, n in Counter(row.get('id') for row in rows).items() if n > 1]
        if double:
            out.add(leaf.required, where, f'{len(double)} {name} ids occur more than once, e.g. {double[0]}.',
                    f'number the {name}s of the annotation file anew')
    known = {image['id'] for image in images}
    lost = sum(annotation.get('image_id') not in known for annotation in annotations)
    if lost:
        out.add('warning', where, f'{lost} of {len(annotations)} annotations belong to no image of the file.',
                'remove them, or add their images')


def _categories(out: Summary, leaf: Leaf, content: dict) -> None:
    """Compare the names in the file with the data set's classes.

    mmdet gives label i to the i-th category *of the file* that is among the classes, so a class that the file lacks
    shifts every later label.
    """
    names = [str(category.get('name')) for category in content['categories']]
    classes = leaf.classes()
    key = (*leaf.key, 'metainfo', 'classes')
    where = '.'.join(map(str, key))
    fix = assignment(key, repr(tuple(names)))
    if not classes:
        if not leaf.own_metainfo().get('classes'):
            out.add('error', where, f'The data set has no classes; the file names {_list(names)}.', fix)
        return
    absent = [name for name in classes if name not in names]
    extra = [name for name in names if name not in classes]
    if absent and 'classes' not in leaf.own_metainfo():
        out.add(leaf.required, where, f'No classes are set, so those of {leaf.target.__name__} are used '
                f'({_list(classes)}); the file names {_list(names)}.', fix)
    elif absent:
        pairs = [(name, nearest(name, extra, cutoff=0.7, n=1)) for name in absent]
        spelt = [f'`{name}` is spelt `{near[0]}` in the file' for name, near in pairs if near]
        rest = [name for name, near in pairs if not near]
        text = '; '.join(spelt + ([f'{_list(rest)} {"is" if len(rest) == 1 else "are"} not in the file, which names '
                                   f'{_list(names)}'] if rest else []))
        out.add(leaf.required, where, f'The class names do not match: {text}.', fix)
    elif [name for name in names if name in classes] != list(classes):
        out.add('warning', where, f'The file lists the classes in another order ({_list(names)}) than the config '
                f'({_list(classes)}); mmdet numbers them as in the file, so results would be named wrongly.', fix)
    if extra and not absent:
        wanted = {c['id'] for c in content['categories'] if c.get('name') in extra}
        count = sum(annotation.get('category_id') in wanted for annotation in content['annotations'])
        if count:
            out.add('warning', where, f'{count} annotations of {_list(extra)} are ignored, because `classes` does not '
                    'name them.', fix)


def _boxes(out: Summary, leaf: Leaf, images: list[dict], annotations: list[dict], categories: list[dict]) -> set:
    """Judge the boxes; return the ids of images that keep at least one."""
    where = f'{leaf.where}.ann_file'
    size = {image['id']: (image['width'], image['height']) for image in images}
    known = {c['id'] for c in categories if not leaf.classes() or c.get('name') in leaf.classes()}
    every = {c['id'] for c in categories}
    rows = [a for a in annotations if a.get('image_id') in size]
    odd = [a for a in rows if not isinstance(a.get('bbox'), (list, tuple)) or len(a['bbox']) != 4]
    if odd:
        out.add(leaf.required, where, f'{len(odd)} annotations have no bbox of four numbers, e.g. id '
                f'{odd[0].get("id")}.',
                'give every annotation a bbox [x, y, width, height]')
        return set(size)
    if not rows:
        return set()
    box = np.array([a['bbox'] for a in rows], dtype=float)  # (N, 4) x, y, w, h
    extent = np.array([size[a['image_id']] for a in rows], dtype=float)  # (N, 2) w, h
    area = np.array([a.get('area', np.nan) for a in rows], dtype=float)
    finite = np.isfinite(box).all(1)
    empty = finite & ((box[:, 2:] <= 0).any(1) | (area <= 0))
    tiny = finite & ~empty & (box[:, 2:] < 1).any(1)
    far = box[:, :2] + box[:, 2:]
    outside = finite & ~empty & ((np.minimum(far, extent) - np.maximum(box[:, :2], 0)) <= 0).any(1)
    over = finite & ~empty & ~outside & ((far > extent + 1).any(1) | (box[:, :2] < -1).any(1))
    foreign = np.array([a.get('category_id') not in every for a in rows])
    example = {name: rows[int(np.argmax(mask))].get('id') for name, mask in
               (('finite', ~finite), ('empty', empty), ('outside', outside), ('over', over), ('foreign', foreign))}
    total = len(rows)
    if (~finite).any():
        out.add(leaf.required, where, f'{(~finite).sum()} of {total} boxes are NaN or infinite, e.g. annotation '
                f'{example["finite"]}.', 'remove them from the annotation file')
    if over.mean() > 0.5 and ((box[:, 2:] > box[:, :2]).all(1) & (box[:, 2:] <= extent + 1).all(1)).mean() > 0.9:
        out.add(leaf.required, where, 'The boxes look like [x1, y1, x2, y2]; COCO wants [x, y, width, height].',
                'subtract x and y from the last two numbers of every bbox')
    elif over.any():
        out.add('warning', where, f'{over.sum()} of {total} boxes reach over the image border by more than one pixel, '
                f'e.g. annotation {example["over"]}.', 'clip them, or leave it to the pipeline')
    if outside.any():
        out.add('warning', where, f'{outside.sum()} of {total} boxes lie outside their image and are dropped, e.g. '
                f'annotation {example["outside"]}.', 'correct or remove them')
    if empty.any():
        out.add('warning', where, f'{empty.sum()} of {total} boxes have no area and are dropped, e.g. annotation '
                f'{example["empty"]}.', 'correct or remove them')
    if foreign.any():
        out.add(leaf.required, where, f'{foreign.sum()} annotations have a category_id that the file does not define, '
                f'e.g. annotation {example["foreign"]}.', 'add the category to `categories`')
    if np.isnan(area).any() and not any('area' in a for a in rows):
        out.add(leaf.required, where, 'The annotations have no `area`, which mmdet reads.', "add 'area' (pixels)")
    good = finite & ~empty & ~tiny & ~outside & np.array([a.get('category_id') in known for a in rows])
    return {a['image_id'] for a, keep in zip(rows, good) if keep}


def _coco_counts(out: Summary, leaf: Leaf, file: Path, images: list[dict], annotations: list[dict], kept: set) -> None:
    """Say how many images there are, how many are dropped and why."""
    filters = leaf.cfg.get('filter_cfg') or {}
    empty = {image['id'] for image in images if image['id'] not in kept}
    small = {i['id'] for i in images if min(i['width'], i['height']) < filters.get('min_size', 0)}
    training = not leaf.cfg.get('test_mode')
    dropped = (empty if filters.get('filter_empty_gt') and training else set()) | (small if training else set())
    crowd = sum(bool(annotation.get('iscrowd')) for annotation in annotations)
    text = f'{file.name}: {len(images)} images, {len(annotations)} annotations'
    text += f' ({crowd} crowds)' if crowd else ''
    if empty:
        text += f'; {len(empty)} images without a usable box are ' + ('dropped' if empty & dropped else 'kept')
    if small & dropped:
        text += f'; {len(small)} images under min_size {filters["min_size"]} are dropped'
    out.add('info', leaf.where, f'{text}.')
    if len(dropped) == len(images):
        reason = 'the file lists no image' if not images else \
            f'filter_cfg drops all {len(images)} images ({len(empty)} without a usable box, {len(small)} too small)'
        out.add(leaf.required, leaf.where, f'The data set is empty: {reason}.',
                assignment((*leaf.key, 'filter_cfg'), 'None') if images else
                assignment((*leaf.key, 'ann_file'), "'...'"))
    elif training and leaf.split == 'train' and len(empty) == len(images):
        out.add('error', leaf.where, f'None of the {len(images)} training images has a usable box.',
                assignment((*leaf.key, 'ann_file'), "'...'"))


def _list(names: Sequence[str], limit: int = 6) -> str:
    """Write some names."""
    return ', '.join(map(str, names[:limit])) + (f', ... ({len(names)})' if len(names) > limit else '')


def examine_voc(leaf: Leaf, file: Path) -> Summary:
    """Examine a Pascal VOC data set: a list of ids, one XML file each.

    Args:
        leaf: The data set.
        file: The list.
    """
    out = Summary()
    ids = file.read_text('utf-8').split()
    root = leaf.path('sub_data_root') or Path(leaf.cfg.get('data_root') or '')
    pictures, notes = leaf.value('img_subdir', 'JPEGImages'), leaf.value('ann_subdir', 'Annotations')
    out.images = [root / pictures / f'{i}.jpg' for i in ids]
    if not ids:
        out.add(leaf.required, f'{leaf.where}.ann_file', f'{file} lists no image.',
                assignment((*leaf.key, 'ann_file'), "'...'"))
        return out
    seen: Counter = Counter()
    missing, broken, faulty, empty = [], [], [], 0
    looked = sample(ids, _XML_SAMPLE)
    for i in looked:
        path = root / notes / f'{i}.xml'
        try:
            objects = ElementTree.parse(path).getroot().findall('object')
            names = [part.findtext('name') for part in objects]
            corners = [[float(part.find('bndbox').findtext(side)) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
                       for part in objects]
        except FileNotFoundError:
            missing.append(path)
            continue
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            broken.append((path, error))
            continue
        seen.update(names)
        empty += not any(name in leaf.classes() for name in names)
        faulty += [path for x1, y1, x2, y2 in corners if not (x2 > x1 and y2 > y1)]
    where = f'{leaf.where}.ann_file'
    if missing:
        out.add(leaf.required, where, f'{len(missing)} of {len(looked)} annotation files are missing, e.g. '
                f'{missing[0]}.',
                'correct data_root or ann_subdir')
    if broken:
        out.add(leaf.required, where, f'{len(broken)} annotation files cannot be read, e.g. {broken[0][0]}: '
                f'{broken[0][1]}.', 'export them again')
    if faulty:
        out.add('warning', where, f'{len(faulty)} boxes have no area, e.g. in {faulty[0]}.', 'correct or remove them')
    extra = [name for name in seen if name not in leaf.classes()]
    key = (*leaf.key, 'metainfo', 'classes')
    if extra:
        near = [f'`{name}` looks like the class `{close[0]}`' for name in extra
                if (close := nearest(name, leaf.classes(), cutoff=0.7, n=1)) and close[0] not in seen]
        out.add(leaf.required if near or not any(n in leaf.classes() for n in seen) else 'warning',
                '.'.join(map(str, key)), f'{sum(seen[name] for name in extra)} objects of {_list(extra)} are ignored, '
                f'because the classes are {_list(leaf.classes())}{"; " + ", ".join(near) if near else ""}.',
                assignment(key, repr(tuple(sorted(seen)))))
    out.add('info', leaf.where, f'{file.name}: {len(ids)} images, {sum(seen.values())} objects in {len(looked)} files '
            f'read, {empty} without an object of the classes.')
    if empty == len(looked) - len(missing) - len(broken) and empty:
        out.add(leaf.required, leaf.where, 'The data set is empty: no object is of the classes.',
                assignment(key, repr(tuple(sorted(seen)))))
    return out
