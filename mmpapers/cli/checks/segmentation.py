"""Doctor of semantic segmentation data: pairs of images and label maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from .finding import assignment, dotted
from .images import read_mask, sample
from .leaves import Leaf, pipeline_argument
from .paths import nearest_path
from .summary import Summary

_MASKS = 100


def examine_segmentation(leaf: Leaf) -> Summary:
    """Examine a data set of mmseg: the class itself lists its files, without a pipeline.

    Args:
        leaf: The data set.
    """
    out = Summary()
    if _foreign(out, leaf) or any(path and not path.is_dir() for path in map(leaf.path, ('img_path', 'seg_map_path'))):
        return out
    arguments = {name: value for name, value in leaf.cfg.items() if name not in ('type', '_scope_', 'pipeline')}
    try:
        rows = leaf.target(**{**arguments, 'pipeline': [], 'lazy_init': True}).load_data_list()
    except Exception as error:  # whatever a data set class raises; training would stop with it
        out.add(leaf.required, leaf.where, f'The data set cannot list its files: {type(error).__name__}: {error}.')
        return out
    out.images = [Path(row['img_path']) for row in rows if 'img_path' in row]
    if not rows:
        _empty(out, leaf)
    pairs = {Path(row['seg_map_path']): row for row in rows if row.get('seg_map_path')}
    there = [mask for mask in pairs if mask.is_file()]
    if len(there) < len(pairs):
        lost = next(mask for mask in pairs if not mask.is_file())
        near = nearest_path(lost)
        out.add(leaf.required, leaf.where, f'{len(pairs) - len(there)} of {len(pairs)} label maps are missing, e.g. '
                f'{lost}' + (f'; did you mean {near.name}?' if near and near.is_file() else '.'),
                assignment((*leaf.key, 'seg_map_suffix'), "'...'"))
    if rows:
        out.add('info', leaf.where, f'{leaf.split}: {len(rows)} images, {len(there)} with label maps.')
    if there:
        _labels(out, leaf, there, pairs)
    return out


def _empty(out: Summary, leaf: Leaf) -> None:
    """Say why no image is found."""
    folder = leaf.path('img_path') or Path(leaf.cfg.get('data_root') or '.')
    suffix, found = leaf.value('img_suffix', '.jpg'), sorted({path.suffix for path in folder.rglob('*.*')})
    out.add(leaf.required, leaf.where, f'The data set is empty: {leaf.path("ann_file") or folder} gives no image that '
            f'ends with `{suffix}`' + (f' (there are {", ".join(found)}).' if found else '.'),
            assignment((*leaf.key, 'img_suffix'), repr(found[0]) if found else "'...'"))


def _foreign(out: Summary, leaf: Leaf) -> bool:
    """mmseg maps custom classes from those of the data set's class, so they must be among them."""
    known = leaf.default_classes()
    foreign = [name for name in leaf.classes() if name not in known]
    if known and foreign:
        out.add('error', dotted((*leaf.key, 'metainfo', 'classes')),
                f'{", ".join(map(str, foreign[:4]))} {"is" if len(foreign) == 1 else "are"} not among the classes of '
                f'{leaf.target.__name__}, which mmseg refuses.', assignment((*leaf.key, 'type'), "'BaseSegDataset'"))
    return bool(known and foreign)


def _labels(out: Summary, leaf: Leaf, masks: list[Path], rows: dict[Path, dict]) -> None:
    """Judge the values of a sample of label maps."""
    counts = np.zeros(256, dtype=np.int64)
    looked = sample(masks, _MASKS)
    first: dict[int, Path] = {}
    odd: list[tuple[Path, str]] = []
    for path in looked:
        mask = read_mask(path)
        if isinstance(mask, np.ndarray) and (mask.dtype == bool or mask.max(initial=0) < 256):
            histogram = np.bincount(mask.astype(np.uint8).ravel(), minlength=256)
            for value in np.flatnonzero(histogram):
                first.setdefault(int(value), path)
            counts += histogram
            size = _size(Path(rows[path]['img_path']))
            if size and size != mask.shape:
                odd.append((path, f'is {mask.shape}, but its image is {size} (height, width)'))
        else:
            odd.append((path, mask if isinstance(mask, str) else f'has labels up to {int(mask.max())}, over 8 bits'))
    if odd:
        out.add(leaf.required, leaf.where,
                f'{len(odd)} of {len(looked)} label maps are unusable: {odd[0][0]} {odd[0][1]}.',
                'convert the label maps to single-channel PNGs of class indices')
    if counts.any():
        _values(out, leaf, counts, first, rows[looked[0]].get('label_map') or {}, len(looked))


def _size(path: Path) -> tuple[int, int] | None:
    """(height, width) from an image's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # reported by the probe of the images
        return None


def loaded(reduce_zero_label: bool, label_map: dict[int, int]) -> np.ndarray:
    """Return what mmseg's LoadAnnotations makes of each label value.

    Args:
        reduce_zero_label: Whether 0 is ignored and the others are shifted down.
        label_map: New label of each old one; others stay.

    Returns:
        The new label of each value 0..255, (256,).
    """
    table = np.arange(256)
    if reduce_zero_label:
        table = np.where((table == 0) | (table == 255), 255, table - 1)
    result = table.copy()
    for old, new in label_map.items():
        result[table == old] = new
    return result


def _values(out: Summary, leaf: Leaf, counts: np.ndarray, first: dict[int, Path], label_map: dict[int, int],
            looked: int) -> None:
    """Compare the label values seen with those allowed."""
    names = leaf.classes()
    ignore, reduce = leaf.value('ignore_index', 255), bool(leaf.value('reduce_zero_label', False))
    step = pipeline_argument(leaf, 'LoadAnnotations', 'reduce_zero_label')
    key = (*leaf.key, 'reduce_zero_label')
    if step is not None and bool(step) != reduce:
        out.add('error', dotted(key), f'LoadAnnotations has reduce_zero_label={step}, but the data set has {reduce}; '
                'mmseg stops at the first image.', assignment(key, str(bool(step))))
    seen = [int(value) for value in np.flatnonzero(counts)]
    table, total = loaded(reduce, label_map), counts.sum()
    ignored = np.isin(table, (255, ignore))
    share = counts[ignored].sum() / total
    text = f'{looked} label map{"s" * (looked > 1)} of {leaf.split} hold the values {_ranges(seen)}'
    out.add('info', leaf.where, f'{text}; {share:.1%} of the pixels are ignored.')
    if not names:
        return
    bad = [value for value in seen if not ignored[value] and table[value] >= len(names)]
    values = [value for value in seen if value not in (255, ignore)]
    if bad:
        fix = 'correct the label maps, or metainfo.classes and num_classes'
        if bad == [len(names)] and not label_map and not reduce:  # one value too many: void, or labels that start at 1
            fix = assignment(key, 'True') if 0 not in seen else \
                f'{assignment((*leaf.key, "ignore_index"), str(bad[0]))} and ignore_index={bad[0]} in every head, ' \
                f'if {bad[0]} is void; {assignment(key, "True")} if 0 is'
        out.add(leaf.required, leaf.where,
                f'{text}, but {len(names)} classes allow {int(reduce)}..{len(names) - 1 + reduce} and 255 (ignored); '
                f'{_ranges(bad)} ({counts[bad].sum() / total:.1%} of the pixels, e.g. in {first[bad[0]]}) '
                f'{"is" if len(bad) == 1 else "are"} too large.', fix)
    elif values == [0] and 255 in seen and len(names) == 2:
        out.add(leaf.required, leaf.where, f'{text}: 255 is ignored, so the class `{names[1]}` never occurs.',
                'write label maps with the values 0 and 1')
    elif reduce and len(names) > 1 and values == list(range(len(names))):
        out.add(leaf.required, dotted(key), f'{text}, one for each of the {len(names)} classes, but reduce_zero_label '
                f'ignores the value 0 (`{names[0]}`) and shifts the others.', assignment(key, 'False'))
    elif share > 0.9:
        out.add('warning', leaf.where, f'{share:.1%} of the pixels looked at are ignored.',
                'check ignore_index and reduce_zero_label')
    never = [str(name) for i, name in enumerate(names) if i not in set(table[seen].tolist())]
    if never and not bad:
        out.add('info', leaf.where, f'Classes that none of the {looked} label maps of {leaf.split} holds: '
                f'{", ".join(never[:8])}' + (f', ... ({len(never)}).' if len(never) > 8 else '.'))


def _ranges(values: list[int]) -> str:
    """Write 0, 1, 2, 5, 255 as ``0..2, 5, 255``."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    return ', '.join(f'{g[0]}..{g[-1]}' if len(g) > 2 else ', '.join(map(str, g)) for g in groups)
