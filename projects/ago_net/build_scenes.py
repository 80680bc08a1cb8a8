"""Write the conceptual clouds of a training set: ``python -m mmpapers.projects.ago_net.build_scenes CONFIG FOLDER``."""

import argparse
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import ProgressBar

from mmpapers import compat
from mmpapers.cli.runtime import UserError, read_config
from mmpapers.datasets.files import write_atomic

from .scenes import ConceptualSceneBuilder, members

MANIFEST = 'conceptual.json'


class Scenes:
    """The scenes of a training set, as its pipeline loads them.

    Args:
        cfg: A config whose ``train_dataloader`` reads a data set of mmdet3d with files of points.

    Raises:
        ValueError: If it has no such data set.
    """

    def __init__(self, cfg: Config) -> None:
        init_default_scope(cfg.get('default_scope', 'mmdet3d'))
        data = cfg.train_dataloader.dataset
        while 'dataset' in data:  # RepeatDataset, CBGSDataset
            data = data.dataset
        steps = [dict(step) for step in data.get('pipeline', ()) if not step['type'].startswith('mmpapers.')]
        for step in steps:
            if step['type'] == 'LoadPointsFromMultiSweeps':
                step['test_mode'] = True  # the same sweeps whenever a scene is read
        first = next((i for i, step in enumerate(steps) if not step['type'].startswith('Load')), len(steps))
        if not any(step['type'] == 'LoadAnnotations3D' for step in steps[:first]):
            raise ValueError('train_dataloader.dataset.pipeline must begin with the loading of points and '
                             'LoadAnnotations3D; give the config of a LiDAR detector')
        sampler = next((step['db_sampler'] for step in steps if step['type'] == 'ObjectSample'), None)
        self.sampler = None if sampler is None else dict(sampler)
        self.data = DATASETS.build(dict(data, pipeline=steps[:first], filter_empty_gt=False, test_mode=False))
        self.names = self.data.metainfo['classes']

    def __iter__(self) -> Iterator[tuple[str, Path, np.ndarray, np.ndarray, list[str | None]]]:
        """Yield sample index, file, points (N, D), boxes (M, 7 or more) and classes of every scene."""
        for index in range(len(self.data)):
            scene = self.data.prepare_data(index)
            labels = [self.names[label] if label >= 0 else None for label in scene['gt_labels_3d']]
            yield (str(scene['sample_idx']), Path(scene['lidar_points']['lidar_path']),
                   scene['points'].tensor.numpy(), scene['gt_bboxes_3d'].tensor.numpy(), labels)


def build(cfg: Config, out: Path, bins: int = 8, share: float = 0.2, most: int = 200, progress: bool = False) -> dict:
    """Write conceptual clouds under the names of the perceptual ones, and the database of their objects.

    Args:
        cfg: See :class:`Scenes`.
        out: Receives ``<folder of the clouds>/*.bin`` and, where the pipeline samples objects, the database's list and
            folder under their own names.
        bins: See :class:`~mmpapers.projects.ago_net.scenes.ConceptualSceneBuilder`.
        share: The same.
        most: The same.
        progress: Whether to draw progress bars.

    Returns:
        What the manifest ``conceptual.json`` says: parameters, and objects, candidates and replaced ones by class.

    Raises:
        ValueError: If ``out`` is where the perceptual clouds lie.
    """
    scenes, builder = Scenes(cfg), ConceptualSceneBuilder(bins, share, most)
    bar = ProgressBar if progress else _Silent
    step = bar(2 * len(scenes.data))
    for key, path, points, boxes, names in scenes:
        if path.parent.resolve() == (out / path.parent.name).resolve():
            raise ValueError(f'{out} holds the perceptual clouds themselves; choose another folder')
        builder.add(key, points, boxes, names)
        step.update()
    builder.match()
    database, entries = _database(scenes.sampler)
    for key, path, points, boxes, _ in scenes:
        cloud = builder.build(key, points, boxes)
        _write(out / path.parent.name / path.name, cloud)
        for entry in entries.get(key, ()):
            box = np.asarray(entry['box3d_lidar'])
            part = cloud[members(cloud, box)].copy()
            part[:, :3] -= box[:3]
            entry['num_points_in_gt'] = len(part)
            _write(out / entry['path'], part)
        step.update()
    if database:
        write_atomic(out / Path(scenes.sampler['info_path']).name, pickle.dumps(database, protocol=4))
    manifest = dict(bins=bins, share=share, most=most, scenes=len(scenes.data), classes=builder.summary())
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=2).encode())
    return manifest


def _database(sampler: dict | None) -> tuple[dict, dict[str, list[dict]]]:
    """The database's list, and its entries by scene."""
    if sampler is None:
        return {}, {}
    database = pickle.loads(Path(sampler['info_path']).read_bytes())
    entries: dict[str, list[dict]] = {}
    for objects in database.values():
        for entry in objects:
            entries.setdefault(str(entry['image_idx']), []).append(entry)
    return database, entries


def _write(path: Path, points: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, points.astype('<f4').tobytes())


class _Silent:
    def __init__(self, task_num: int) -> None:
        pass

    def update(self) -> None:
        """Do nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit code: 0, or 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser('build_scenes', description=__doc__.partition(':')[0] + '.')
    parser.add_argument('config', help='config of the detector, a file or mmdet3d::folder/name.py; its train pipeline '
                                       'names clouds and database')
    parser.add_argument('folder', type=Path, help='where the conceptual clouds go, e.g. data/kitti/conceptual')
    parser.add_argument('--bins', type=int, default=8, help='bins of the heading relative to the sensor (8)')
    parser.add_argument('--share', type=float, default=0.2, help='share of densest objects that are candidates (0.2)')
    parser.add_argument('--most', type=int, default=200, help='candidates that an object is compared with (200)')
    args = parser.parse_args(argv)
    compat.setup()
    try:
        found = build(read_config(args.config), args.folder, args.bins, args.share, args.most,
                      progress=sys.stdout.isatty())
    except (UserError, ValueError, OSError) as error:
        parser.exit(2, f'build_scenes: {error}\n')
    print(f'{found["scenes"]} conceptual clouds in {args.folder}')
    for name, counts in found['classes'].items():
        print(f'  {name}: ' + ', '.join(f'{count} {kind}' for kind, count in counts.items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
