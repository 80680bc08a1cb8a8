"""Doctor of point clouds with boxes: mmdet3d's info files and the point files that they name."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpapers.datasets.infos import Fault, InfoError, faults, load_infos
from mmpapers.datasets.points import PointFileError, read_points

from .finding import assignment, did_you_mean
from .images import absent, sample
from .leaves import Leaf, pipeline_argument
from .summary import Summary

_LARGE = 2 ** 29  # bytes of an info file; reading more would take longer than the rest of the checks together
_KINDS = {
    'file': 'have no point file', 'calibration': 'lack calibration', 'box': 'have a box that is not finite',
    'volume': 'have a box without volume', 'label': 'have a label that is no class of the data set'}
_FIXES = {
    'file': 'write the infos anew', 'calibration': 'add the calibration files and write the infos anew',
    'box': 'correct or remove the objects and write the infos anew',
    'volume': 'correct or remove the objects and write the infos anew; a side of 0 gives infinite box targets',
    'label': 'write the infos for this data set class, or use the class that they were written for'}


def examine_points(leaf: Leaf, file: Path) -> Summary:
    """Examine a 3D detection set: its infos, and a sample of its point files.

    Args:
        leaf: The data set.
        file: Its info file.
    """
    out = Summary()
    where = f'{leaf.where}.ann_file'
    if file.stat().st_size > _LARGE:
        out.add('info', where, f'{file} is {file.stat().st_size >> 20} MiB; its content was not examined.')
        return out
    try:
        content = load_infos(file)
    except InfoError as error:
        out.add(leaf.required, where, f'{error}.', 'copy the file again, or write it anew with a converter')
        return out
    frames = content['data_list']
    if not frames:
        out.add(leaf.required, where, f'{file} lists no frame.', assignment((*leaf.key, 'ann_file'), "'...'"))
        return out
    names = _classes(out, leaf, content['metainfo'].get('categories') or {})
    if not names:
        return out
    modality = leaf.value('modality') or {}
    lidar = bool(modality.get('use_lidar', True))
    cameras = ('CAM2',) if leaf.is_a('KittiDataset') else ('*',) if modality.get('use_camera') else ()
    _faults(out, leaf, file, faults(frames, len(names), cameras, lidar), len(frames))
    points = _points(out, leaf, frames) if lidar else ''
    counts = Counter(names[label] for frame in frames for instance in frame.get('instances') or ()
                     if 0 <= (label := _label(instance)) < len(names))
    wanted = leaf.own_metainfo().get('classes') or names
    kept = ', '.join(f'{counts[name]} {name}' for name in wanted)
    _database(out, leaf)
    out.add('info', leaf.where, f'{file.name}: {len(frames)} frames, {kept}'
            + (f', {counts.total() - sum(counts[name] for name in wanted)} of other classes'
               if set(counts) - set(wanted) else '') + f'{points}.')
    if not any(counts[name] for name in wanted) and leaf.split != 'test':
        out.add(leaf.required, leaf.where, f'No object of {file.name} is of the classes {", ".join(wanted)}.',
                assignment((*leaf.key, 'metainfo', 'classes'), repr(tuple(name for name, _ in counts.most_common()))))
    return out


def _database(out: Summary, leaf: Leaf) -> None:
    """Objects that are pasted into other frames need their list."""
    sampler = pipeline_argument(leaf, 'ObjectSample', 'db_sampler') or {}
    listed = sampler.get('info_path')
    if listed and not Path(listed).is_file():
        out.add(leaf.required, f'{leaf.where}.pipeline', f'ObjectSample needs {listed}, which does not exist.',
                'write it with tools/dataset_converters/kitti.py, or take ObjectSample out of the pipeline')


def _label(instance: dict) -> int:
    """Label of an object; -2 if it has none."""
    label = instance.get('bbox_label_3d', instance.get('bbox_label'))
    return int(label) if isinstance(label, int | np.integer) else -2


def _classes(out: Summary, leaf: Leaf, categories: dict[str, int]) -> tuple[str, ...]:
    """Names that the labels of the infos stand for; empty, with a finding, if the config's classes are none of them."""
    names = leaf.default_classes() or tuple(sorted((n for n, i in categories.items() if i >= 0), key=categories.get))
    key = (*leaf.key, 'metainfo', 'classes')
    unknown = [name for name in leaf.own_metainfo().get('classes') or () if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names) or '.'
        out.add('error', '.'.join(map(str, key)), f'{leaf.target.__name__} does not know the class '
                f'{", ".join(map(repr, unknown))}{hint} It has {", ".join(names)}.', assignment(key, repr(names)))
        return ()
    other = [name for name, label in categories.items()
             if 0 <= label < len(names) and leaf.default_classes() and names[label].lower() != str(name).lower()]
    if other:
        label = categories[other[0]]
        out.add(leaf.required, f'{leaf.where}.ann_file', f'Label {label} is {other[0]!r} in the infos but '
                f'{names[label]!r} in {leaf.target.__name__}, so objects would be named wrongly.',
                'use the data set class that the infos were written for, e.g. mmpapers.LidarInfosDataset, which takes '
                'the classes from them')
        return ()
    return names


def _faults(out: Summary, leaf: Leaf, file: Path, found: Sequence[Fault], frames: int) -> None:
    """Report each kind of fault once, with its number and an example."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in found:
        kinds[fault.kind].append(fault)
    for kind, group in kinds.items():
        touched = len({fault.frame for fault in group})
        out.add(leaf.required, f'{leaf.where}.ann_file', f'{touched} of {frames} frames of {file.name} {_KINDS[kind]}, '
                f'e.g. frame {group[0].frame}: {group[0].text}.', _FIXES[kind])


def _points(out: Summary, leaf: Leaf, frames: Sequence[dict]) -> str:
    """Read a sample of the point files; returns what to say about their size."""
    folder = leaf.path('pts') or Path(leaf.cfg.get('data_root') or '')
    files = [(folder / frame['lidar_points']['lidar_path'], frame['lidar_points'].get('num_pts_feats'))
             for frame in frames if isinstance((frame.get('lidar_points') or {}).get('lidar_path'), str)]
    missing = absent([path for path, _ in files])
    if missing:
        out.add(leaf.required, f'{leaf.where}.data_prefix.pts', f'{len(missing)} of {len(files)} point files are '
                f'missing, e.g. {missing[0]}.', f'correct data_prefix.pts of {leaf.where} (now {folder})'
                if len(missing) == len(files) else f'copy the files to {folder}')
    dim = _dimension(out, leaf, files)
    limits = pipeline_argument(leaf, 'PointsRangeFilter', 'point_cloud_range')
    counts, inside, broken = [], [], []
    for path, _ in sample([row for row in files if row[0] not in set(missing)]) if dim else ():
        try:
            points = read_points(path, dim)
        except PointFileError as error:
            broken.append(str(error))
            continue
        counts.append(len(points))
        if limits is not None and len(limits) == 6:
            low, high = np.array(limits[:3], np.float32), np.array(limits[3:], np.float32)
            inside.append(((points[:, :3] >= low) & (points[:, :3] <= high)).all(1).mean())
    if broken:
        out.add(leaf.required, leaf.where, f'{len(broken)} of {len(counts) + len(broken)} point files looked at cannot '
                f'be used: {broken[0]}.', 'write the files anew, remove the frames from the infos, or correct load_dim')
    if inside and max(inside) < 0.01:
        out.add(leaf.required, f'{leaf.where}.pipeline', f'Of the points of {len(inside)} files looked at, at most '
                f'{max(inside):.1%} lie within the point_cloud_range {list(limits)}.',
                'correct point_cloud_range, or load_dim, with which columns shift')
    return f'; {_span(counts)} points in {len(counts)} files read' if counts else ''


def _span(counts: Sequence[int]) -> str:
    """Write a range of numbers."""
    return str(min(counts)) if min(counts) == max(counts) else f'{min(counts)} to {max(counts)}'


def _dimension(out: Summary, leaf: Leaf, files: Sequence[tuple[Path, Any]]) -> int | None:
    """Numbers per point, as the pipeline reads them; None, with a finding, if the config contradicts itself."""
    loader = next((step for step in leaf.cfg.get('pipeline') or () if isinstance(step, dict)
                   and str(step.get('type', '')).endswith('LoadPointsFromFile')), None)
    announced = Counter(dim for _, dim in files if dim).most_common(1)
    if loader is None:
        return int(announced[0][0]) if announced else None
    dim, use = loader.get('load_dim', 6), loader.get('use_dim', [0, 1, 2])
    last = max(use) + 1 if isinstance(use, list | tuple) else use
    if last > dim:
        out.add('error', f'{leaf.where}.pipeline', f'LoadPointsFromFile uses {last} numbers of each point but loads '
                f'{dim}.', f"dict(type='LoadPointsFromFile', load_dim={last}, ...)  # if the files have {last}")
        return None
    if announced and int(announced[0][0]) != dim:
        right = int(announced[0][0])
        out.add(leaf.required, f'{leaf.where}.pipeline', f'LoadPointsFromFile reads points of {dim} numbers; the infos '
                f'say that the files have {right}.', f"dict(type='LoadPointsFromFile', load_dim={right}, ...)")
        return None
    return dim
