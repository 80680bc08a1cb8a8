"""Fill a folder with Toytown scenes: in parallel, resumable, and never over somebody else's files."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ..files import write_atomic
from . import VERSION, ToytownError
from .annotate import annotate
from .labels import SPLITS
from .render import render
from .scene import sample_scene
from .view import look
from .writers import (
    coco_annotations,
    coco_file,
    coco_image,
    depth_image,
    encode_image,
    lane_entry,
    tusimple_file,
)

MANIFEST = 'toytown.json'
_RECORDS = '.scenes'

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to generate: camera scenes; :class:`~.kitti_plan.KittiPlan` is the plan of a KITTI folder.

    Args:
        train: Number of training scenes.
        val: Number of validation scenes.
        test: Number of test scenes.
        seed: Seed of the data set.
        size: Image width and height in pixels.
    """

    program: ClassVar[str] = 'toytown'  # names the manifest and begins messages
    # What sets with this manifest consist of, whatever their plan; removed before another one is made.
    contents: ClassVar[tuple[str, ...]] = (
        'images', 'labels', 'depth', 'annotations', 'lanes', 'training', 'ImageSets', 'kitti_gt_database', 'conceptual',
        'kitti_infos_train.pkl', 'kitti_infos_val.pkl', 'kitti_infos_test.pkl', 'kitti_dbinfos_train.pkl')

    train: int = 400
    val: int = 100
    test: int = 0
    seed: int = 0
    size: tuple[int, int] = (320, 192)

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test, self.seed) < 0 or self.total == 0:
            raise ToytownError(f'{self.program}: --train, --val, --test and --seed must not be negative, and one scene '
                               'at least must be asked for')
        if not all(64 <= edge <= 4096 for edge in self.size):
            raise ToytownError(f'{self.program}: --size {self.size[0]}x{self.size[1]} is outside 64x64 to 4096x4096')

    @property
    def total(self) -> int:
        """Number of scenes in all splits."""
        return self.train + self.val + self.test

    def scenes(self) -> Iterator[tuple[str, int]]:
        """Every ``(split, index)``."""
        for split in SPLITS:
            for index in range(getattr(self, split)):
                yield split, index

    def parameters(self) -> dict:
        """The plan and the generator's version, as the manifest holds them."""
        return dict(version=VERSION, **{**asdict(self), 'size': list(self.size)})

    def folders(self) -> list[str]:
        """Folders that scenes are written to."""
        return [f'{kind}/{split}' for kind in ('images', 'labels', 'depth') for split in SPLITS if getattr(self, split)]

    def files(self, split: str, index: int) -> list[str]:
        """Files of one scene."""
        return [f'{kind}/{split}/{index:06d}.{suffix}'
                for kind, suffix in (('images', 'jpg'), ('labels', 'png'), ('depth', 'png'))]

    def make(self, folder: Path, split: str, index: int) -> dict:
        """Write the files of one scene; return its record, which :meth:`joined` and the manifest are made of."""
        scene = sample_scene(self.seed, split, index, self.size)
        view = look(scene)
        labels = annotate(scene, view)
        stem, depth = f'{index:06d}', depth_image(labels.depth)
        annotations = coco_annotations(scene, labels)
        lanes = lane_entry(scene, labels, f'images/{split}/{stem}.jpg')
        digest = hashlib.sha256()
        for array in (labels.semantic, depth, labels.instance):
            digest.update(array.astype(f'<u{array.itemsize}').tobytes())
        digest.update(json.dumps([annotations, lanes], sort_keys=True).encode())
        write_atomic(folder / 'images' / split / f'{stem}.jpg', encode_image(render(scene, view), '.jpg'))
        write_atomic(folder / 'labels' / split / f'{stem}.png', encode_image(labels.semantic, '.png'))
        write_atomic(folder / 'depth' / split / f'{stem}.png', encode_image(depth, '.png'))
        return dict(image=coco_image(scene, f'{stem}.jpg'), annotations=annotations, lanes=lanes,
                    sha256=digest.hexdigest())

    def joined(self, split: str, records: list[dict]) -> dict[str, bytes]:
        """Files that hold a whole split."""
        annotations = [row for record in records for row in record['annotations']]
        return {
            f'annotations/instances_{split}.json': coco_file([record['image'] for record in records], annotations,
                                                             f'Toytown {split}, seed {self.seed}, version {VERSION}'),
            f'lanes/{split}.json': tusimple_file([record['lanes'] for record in records])}

    def count(self, records: list[dict]) -> dict[str, int]:
        """What the manifest says of a split."""
        return dict(images=len(records), objects=sum(len(record['annotations']) for record in records))


def generate(folder: str | Path, plan: Plan, workers: int | None = None, overwrite: bool = False,
             report: Report = lambda text: None) -> dict:
    """Generate a data set, or reuse or complete the one that is there.

    Args:
        folder: Where to write; made if absent.
        plan: What to generate.
        workers: Number of processes; the number of usable cores if not given.
        overwrite: Delete a Toytown set that is there and make it anew. Other folders are never touched.
        report: Receives lines about the progress.

    Returns:
        The manifest as written to ``toytown.json`` (or the plan's program's).

    Raises:
        ToytownError: If the folder holds something else, or a set with other parameters or missing files.
    """
    folder = Path(folder)
    found = _inspect(folder, plan, overwrite, report)
    if found is not None:
        return found
    for name in (*plan.folders(), *(f'{_RECORDS}/{split}' for split in SPLITS)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    manifest = dict(parameters=plan.parameters(), complete=False)
    write_atomic(_manifest(folder, plan), _pretty(manifest))
    missing = [scene for scene in plan.scenes() if not _record(folder, *scene).is_file()]
    if len(missing) < plan.total:
        report(f'resuming: {plan.total - len(missing)} of {plan.total} scenes are there')
    _run(folder, plan, missing, workers, report)
    manifest.update(_assemble(folder, plan), complete=True)
    write_atomic(_manifest(folder, plan), _pretty(manifest))
    shutil.rmtree(folder / _RECORDS)
    return manifest


def make_scene(folder: Path, plan: Plan, split: str, index: int) -> None:
    """Write the files of one scene and, last, its record."""
    write_atomic(_record(folder, split, index), json.dumps(plan.make(folder, split, index)).encode())


def _manifest(folder: Path, plan: Plan) -> Path:
    return folder / f'{plan.program}.json'


def _record(folder: Path, split: str, index: int) -> Path:
    return folder / _RECORDS / split / f'{index:06d}.json'


def _pretty(manifest: dict) -> bytes:
    return (json.dumps(manifest, indent=2) + '\n').encode()


def _inspect(folder: Path, plan: Plan, overwrite: bool, report: Report) -> dict | None:
    """Decide what to do with a folder: the manifest if it is complete, None if there is work to do."""
    name = plan.program
    if folder.exists() and not folder.is_dir():
        raise ToytownError(f'{name}: {folder} is a file; name a folder')
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    path = _manifest(folder, plan)
    if not path.is_file():
        raise ToytownError(f'{name}: {folder} is not empty and was not made by {name} (no {path.name}); nothing was '
                           'written. Name another folder')
    if overwrite:
        report(f'replacing the set in {folder}')
        for part in (*plan.contents, _RECORDS):
            if (folder / part).is_file():
                (folder / part).unlink()
            shutil.rmtree(folder / part, ignore_errors=True)
        path.unlink()  # last, so that an interrupted removal is still known as ours
        return None
    try:
        manifest = json.loads(path.read_text('utf-8'))
        before = dict(manifest['parameters'])
    except (ValueError, KeyError, TypeError) as error:
        raise ToytownError(f'{name}: {path} cannot be read ({error}). Add --overwrite to make the set anew') from error
    wanted = plan.parameters()
    if before != wanted:
        changes = ', '.join(f'{key} {before.get(key)} -> {wanted.get(key)}' for key in {**before, **wanted}
                            if before.get(key) != wanted.get(key))
        raise ToytownError(f'{name}: {folder} holds a set made with other parameters ({changes}); nothing was '
                           'written. Add --overwrite to replace it, or name another folder')
    if not manifest.get('complete'):
        return None
    broken = _broken(folder, plan, manifest)
    if broken:
        raise ToytownError(f'{name}: {folder} was complete but {len(broken)} files are missing or changed, e.g. '
                           f'{broken[0]}. Add --overwrite to make it anew')
    report(f'{folder} is complete and made with these parameters; it is reused as it is')
    return manifest


def _broken(folder: Path, plan: Plan, manifest: dict) -> list[str]:
    """Files of a complete set that are absent, empty or (annotation files) changed."""
    names = [name for scene in plan.scenes() for name in plan.files(*scene)]
    bad = [name for name in names if not (folder / name).is_file()
           or not (folder / name).stat().st_size and '/label_2/' not in name]  # nobody in the picture
    for name, digest in manifest.get('files_sha256', {}).items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            bad.append(name)
    return bad


def _run(folder: Path, plan: Plan, missing: list[tuple[str, int]], workers: int | None, report: Report) -> None:
    """Make the missing scenes in this process or in several."""
    if not missing:
        return
    workers = min(workers or _cores(), len(missing))
    start, step = time.monotonic(), max(len(missing) // 20, 1)

    def tell(done: int) -> None:
        if done % step == 0 or done == len(missing):
            spent = time.monotonic() - start
            left = spent / done * (len(missing) - done)
            report(f'{done:>6} / {len(missing)} scenes   {done / spent:5.1f} per second   {left:4.0f} s left')

    make_scene(folder, plan, *missing[0])  # compiles the kernels once, before processes are forked
    tell(1)
    if workers == 1:
        for done, scene in enumerate(missing[1:], 2):
            make_scene(folder, plan, *scene)
            tell(done)
        return
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(make_scene, folder, plan, *scene) for scene in missing[1:]]
        try:
            for done, job in enumerate(as_completed(jobs), 2):
                job.result()
                tell(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _assemble(folder: Path, plan: Plan) -> dict:
    """Join the scenes' records into the files of the splits; return counts and hashes."""
    files, labels, counts = {}, {}, {}
    for split in SPLITS:
        size = getattr(plan, split)
        if not size:
            continue
        records = [json.loads(_record(folder, split, index).read_text('utf-8')) for index in range(size)]
        for name, data in plan.joined(split, records).items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, data)
            files[name] = hashlib.sha256(data).hexdigest()
        labels[split] = hashlib.sha256(''.join(record['sha256'] for record in records).encode()).hexdigest()
        counts[split] = plan.count(records)
    return dict(counts=counts, labels_sha256=labels, files_sha256=files)
