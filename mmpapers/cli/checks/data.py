"""The data set doctor: reads what a config trains and evaluates on, and says what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from .detection import examine_coco, examine_voc
from .finding import Finding, assignment, dotted
from .images import absent, probe
from .leaves import Leaf, leaves
from .points import examine_points
from .segmentation import examine_segmentation
from .summary import Summary


def check_data(cfg: Config) -> Iterator[Finding]:
    """Examine every data set of the train, val and test loaders once.

    Args:
        cfg: The resolved config. Data sets whose files are missing are left to
            :func:`~mmpapers.cli.checks.paths.check_paths`.
    """
    done: dict[tuple, Summary] = {}
    files: dict[str, set[str]] = {}
    for leaf in leaves(cfg):
        summary = done.get(leaf.identity())
        if summary is None:
            summary = done[leaf.identity()] = _examine(leaf)
            yield from summary.findings
            yield from _images(leaf, summary)
        files.setdefault(leaf.split, set()).update(map(str, summary.images))
    yield from _overlap(files)
    yield from _batch(cfg, files)


def _examine(leaf: Leaf) -> Summary:
    """Read the annotations of one data set."""
    annotations = leaf.path('ann_file')
    if annotations is not None and not annotations.exists():
        return Summary()
    if leaf.is_a('Det3DDataset') and annotations is not None:
        return examine_points(leaf, annotations)
    if leaf.is_a('CocoPanopticDataset', 'BaseVideoDataset', 'Seg3DDataset'):
        return Summary()
    if leaf.is_a('CocoDataset') and annotations is not None:
        return examine_coco(leaf, annotations)
    if leaf.is_a('XMLDataset') and annotations is not None:
        return examine_voc(leaf, annotations)
    if leaf.is_a('BaseSegDataset'):
        return examine_segmentation(leaf)
    return Summary()


def _images(leaf: Leaf, summary: Summary) -> Iterator[Finding]:
    """Report images that are missing, broken or of another size than announced."""
    missing = absent(summary.images)
    if missing:
        whole = len(missing) == len(summary.images)
        parent = missing[0].parent
        yield Finding(leaf.required, f'{leaf.where}.data_prefix',
                      f'{"All" if whole else len(missing)} of {len(summary.images)} images are missing, '
                      f'e.g. {missing[0]}.',
                      f'correct data_prefix of {leaf.where} (now {parent})' if whole else
                      f'copy the files to {parent}, or remove them from the annotations')
        if whole:
            return
    found = probe(summary.images)
    for path, reason in found.broken[:5]:
        yield Finding(leaf.required, leaf.where, f'The image {path} cannot be decoded: {reason}.',
                      'replace the file, or remove it from the annotations')
    wrong = [path for path, size in found.sizes.items() if summary.sizes.get(path, size) != size]
    if wrong:
        path = wrong[0]
        swapped = summary.sizes[path] == found.sizes[path][::-1]
        yield Finding('warning', leaf.where,
                      f'{len(wrong)} of {len(found.sizes)} images looked at have another size than the annotations '
                      f'say, e.g. {path}: (h, w) is {found.sizes[path]}, not {summary.sizes[path]}.',
                      'swap height and width in the annotation file' if swapped else
                      'correct height and width in the annotation file')


def _overlap(files: dict[str, set[str]]) -> Iterator[Finding]:
    """Warn when evaluation sees images of the training set."""
    for split in ('val', 'test'):
        both = files.get('train', set()) & files.get(split, set())
        if both:
            yield Finding('warning', f'{split}_dataloader.dataset',
                          f'{len(both)} of the {len(files[split])} images of the {split} split are in the training '
                          f'set too, e.g. {Path(min(both)).name}.',
                          f'{split}_dataloader = dict(dataset=dict(ann_file=...))')


def _batch(cfg: Config, files: dict[str, set[str]]) -> Iterator[Finding]:
    """Judge the batch size against the number of images."""
    loader = cfg.get('train_dataloader') or {}
    size, count = loader.get('batch_size'), len(files.get('train', ()))
    if isinstance(size, int) and 0 < count < size:
        key = ('train_dataloader', 'batch_size')
        yield Finding('error' if loader.get('drop_last') else 'warning', dotted(key),
                      f'The batch size {size} exceeds the {count} training images'
                      + (', and drop_last leaves no batch.' if loader.get('drop_last') else '.'),
                      assignment(key, str(count)))
