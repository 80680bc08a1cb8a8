"""Checkpoints, data roots, annotation files and image folders that do not exist."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmpapers.distill.teacher import UNTRAINED

from .finding import Finding, Key, assignment, dotted, nearest, walk
from .leaves import Leaf, leaves

_REMOTE = re.compile(r'\w[\w+-]+:')  # https://, torchvision://, open-mmlab://, s3:, ...; no drive letter


def nearest_path(path: Path) -> Path | None:
    """Return the existing path that a missing one was probably meant to be; None if nothing is near.

    Parts are matched from the left: ``data/bcdd/train.json`` gives ``data/bccd/train.json`` where that exists.
    """
    best = Path(path.anchor)
    for i, part in enumerate(path.parts[1:] if path.anchor else path.parts):
        if (best / part).exists():
            best = best / part
            continue
        names = [p.name for p in best.iterdir()] if best.is_dir() else []
        close = nearest(part, names, n=1)
        if not close:
            return best if i and str(best) not in ('.', path.anchor) else None
        best = best / close[0]
    return best


def missing(level: str, where: str, key: Key, path: Path, what: str) -> Finding:
    """The finding about a path that does not exist."""
    near = nearest_path(path)
    exact = near is not None and len(near.parts) == len(path.parts)
    hint = '' if near is None else f'; did you mean {near}?' if exact else f'; what exists is {near}'
    return Finding(level, where, f'The {what} {path} does not exist{hint or "."}'.rstrip('.') + ('' if exact else '.'),
                   assignment(key, repr(str(near)) if exact else "'...'"))


def check_paths(cfg: Config) -> Iterator[Finding]:
    """Find paths that lead nowhere.

    Args:
        cfg: The resolved config. Addresses of remote checkpoints are reported as information: they are downloaded.
    """
    for name in ('load_from', 'resume'):
        if isinstance(cfg.get(name), str):
            yield from _checkpoint(cfg[name], (name,))
    for key, value in walk(cfg._cfg_dict.get('model'), ('model',)):
        if isinstance(value, str) and key[-1] in ('checkpoint', 'pretrained', 'teacher_ckpt') \
                and value not in ('', *UNTRAINED):
            yield from _checkpoint(value, key)
    done = set()
    for leaf in leaves(cfg):
        if leaf.identity() not in done:
            done.add(leaf.identity())
            yield from _data(leaf)


def _checkpoint(value: str, key: Key) -> Iterator[Finding]:
    """Judge the source of weights."""
    if _REMOTE.match(value):
        yield Finding('info', dotted(key), f'Weights come from {value} and are downloaded unless they are cached.')
    elif not Path(value).expanduser().is_file():
        yield missing('error', dotted(key), key, Path(value), 'checkpoint')
    elif Path(value).stat().st_size == 0:
        yield Finding('error', dotted(key), f'The checkpoint {value} is empty.', assignment(key, "'...'"))


def _data(leaf: Leaf) -> Iterator[Finding]:
    """Judge the root, the annotation file and the folders of a data set; the outermost missing path only."""
    root = leaf.cfg.get('data_root')
    if isinstance(root, str) and _REMOTE.match(root):
        return
    if root and not Path(root).is_dir():
        yield missing(leaf.required, f'{leaf.where}.data_root', (*leaf.key, 'data_root'), Path(root), 'data root')
        return
    annotations = leaf.path('ann_file')
    if annotations is not None and not annotations.exists() and not _REMOTE.match(str(annotations)):
        yield missing(leaf.required, f'{leaf.where}.ann_file', (*leaf.key, 'ann_file'), annotations, 'annotation file')
    for name, value in (leaf.cfg.get('data_prefix') or {}).items():
        if name == 'sweeps':  # earlier scans, read only where a frame's info names some
            continue
        path = Path(root or '') / value if isinstance(value, str) and value else None
        if path is not None and not path.is_dir() and not path.is_file():
            key = (*leaf.key, 'data_prefix', name)
            yield missing(leaf.required, dotted(key), key, path, 'folder')
