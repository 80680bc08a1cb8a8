"""Classes: how the config names them, and whether every head predicts as many as the data set has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .finding import Finding, Key, assignment, dotted, walk
from .leaves import Leaf, leaves, pipeline_argument

# Parts of a model whose num_classes counts something else than the data set's classes.
_OTHER = {'rpn_head', 'reid', 'track_head', 'semantic_head', 'rpn', 'img_rpn_head', 'train_cfg', 'test_cfg', 'backbone',
          'data_preprocessor', 'language_model', 'teacher'}
_OTHER_TYPES = {'STDCHead', 'RPNHead', 'VPDDepthHead', 'PointRCNNBboxHead', 'PointRCNNRoIHead'}


def check_heads(cfg: Config) -> Iterator[Finding]:
    """Find class lists that are no lists, and heads whose ``num_classes`` is not the data set's.

    Args:
        cfg: The resolved config. Nothing is read from disk but a file of class names.
    """
    sets = leaves(cfg)
    for leaf in sets:
        yield from _spelling(leaf)
    train = [leaf for leaf in sets if leaf.split == 'train'] or sets
    counts = {len(leaf.classes()) for leaf in train if leaf.classes()}
    if len(counts) != 1 or not isinstance(cfg.get('model'), dict) or 'language_model' in cfg.model:
        return  # several sets of classes, or an open vocabulary, where num_classes is a number of tokens
    leaf = next(leaf for leaf in train if leaf.classes())
    if leaf.is_a('BaseVideoDataset'):  # trackers: detectors of one class on sets that name more
        return
    yield from _counts(cfg.model, leaf, counts.pop())
    yield from _splits(sets, leaf)


def _spelling(leaf: Leaf) -> Iterator[Finding]:
    """Judge the form of ``metainfo.classes``."""
    meta = leaf.own_metainfo()
    key = (*leaf.key, 'metainfo')
    classes = meta.get('classes')
    if isinstance(classes, str) and not leaf.classes():
        yield Finding('error', dotted((*key, 'classes')),
                      f'`classes` is the string {classes!r}, not a tuple of names; a tuple of one needs a comma.',
                      assignment((*key, 'classes'), f'({classes!r}, )'))
    elif classes is not None and not isinstance(classes, str):
        names = list(classes)
        double = sorted({str(name) for name in names if names.count(name) > 1})
        if double:
            yield Finding('error', dotted((*key, 'classes')), f'`classes` names {", ".join(double)} twice.',
                          assignment((*key, 'classes'), repr(tuple(dict.fromkeys(names)))))
    for old in sorted({'CLASSES', 'PALETTE', 'class', 'class_names', 'Classes'} & set(meta)):
        new = 'palette' if old == 'PALETTE' else 'classes'
        same = new not in meta and tuple(meta[old] or ()) == tuple(getattr(leaf.target, 'METAINFO', {}).get(new, ()))
        yield Finding('warning' if same or new in meta else 'error', dotted((*key, old)),
                      f'Data sets read `{new}` from metainfo and ignore `{old}`.', assignment((*key, new), '...'))


def _counts(model: dict, leaf: Leaf, count: int) -> Iterator[Finding]:
    """Compare every head with the number of classes."""
    source = f'{leaf.where} has {count} class{"es" * (count != 1)} {_some(leaf.classes())}'
    for key, value in walk(model, ('model',)):
        if not isinstance(value, dict) or not _predicts_classes(key, value):
            continue
        things, stuff = value.get('num_things_classes'), value.get('num_stuff_classes')
        if things is not None and stuff is not None:
            yield from _panoptic(key, value, leaf, count, source)
        elif isinstance(value.get('tasks'), (list, tuple)):
            yield from _tasks(key, value, leaf, source)
        else:
            given = value.get('num_classes')
            ignored = leaf.is_a('Seg3DDataset')  # its heads may have an output for the ignored label too
            things = len(_meta(leaf).get('thing_classes') or leaf.classes())  # box heads of panoptic models
            if isinstance(given, int) and given not in (count, count + ignored, things):
                yield _mismatch((*key, 'num_classes'), given, count, source)


def _predicts_classes(key: Key, value: dict) -> bool:
    """Whether a dict of the model is a head over the data set's classes, or a loss inside one."""
    parts = {str(part) for part in key}
    return (any(part.endswith(('head', 'heads')) for part in parts) and not parts & _OTHER
            and str(value.get('type', '')).rpartition('.')[2] not in _OTHER_TYPES)


def _mismatch(key: Key, given: Any, count: int, source: str) -> Finding:
    """The one sentence about a wrong number."""
    return Finding('error', dotted(key), f'`{dotted(key)}` is {given}, but {source}.', assignment(key, str(count)))


def _panoptic(key: Key, value: dict, leaf: Leaf, count: int, source: str) -> Iterator[Finding]:
    """Compare heads that count things and stuff apart; a data set without stuff has things only."""
    meta = _meta(leaf)
    things = len(meta['thing_classes']) if 'thing_classes' in meta else count
    stuff = len(meta['stuff_classes']) if 'stuff_classes' in meta else 0
    for name, expected in (('num_things_classes', things), ('num_stuff_classes', stuff)):
        if value[name] != expected and (name == 'num_things_classes' or 'stuff_classes' in meta):
            yield _mismatch((*key, name), value[name], expected, source)


def _meta(leaf: Leaf) -> dict:
    """Meta information of the data set's class, overridden by the config's."""
    return {**getattr(leaf.target, 'METAINFO', {}), **leaf.own_metainfo()}


def _tasks(key: Key, value: dict, leaf: Leaf, source: str) -> Iterator[Finding]:
    """Compare the tasks of a CenterPoint head, which must list every class once."""
    named = [name for task in value['tasks'] if isinstance(task, dict) for name in task.get('class_names', ())]
    if named and sorted(named) != sorted(leaf.classes()):
        yield Finding('error', dotted((*key, 'tasks')),
                      f'The tasks of `{dotted(key)}` name {_some(named)}, but {source}.',
                      assignment((*key, 'tasks'), '[dict(num_class=..., class_names=[...]), ...]'))


def _splits(sets: list[Leaf], train: Leaf) -> Iterator[Finding]:
    """Training and evaluation must use the same classes in the same order."""
    for leaf in sets:
        if leaf.split != 'train' and leaf.classes() and leaf.is_a(*_names(train)) \
                and leaf.classes() != train.classes():
            yield Finding('error' if leaf.split == 'val' else 'warning', dotted((*leaf.key, 'metainfo')),
                          f'{leaf.where} has the classes {_some(leaf.classes())}, but training has '
                          f'{_some(train.classes())}.',
                          assignment((*leaf.key, 'metainfo'), f'dict(classes={train.classes()!r})'))


def _names(leaf: Leaf) -> tuple[str, ...]:
    return (leaf.target.__name__,) if leaf.target else ()


def _some(names: Any, limit: int = 4) -> str:
    """Write a list of names, shortened."""
    names = list(map(str, names))
    return '(' + ', '.join(names[:limit]) + (f', ... {len(names)} in all' if len(names) > limit else '') + ')'


def check_preprocessor(cfg: Config) -> Iterator[Finding]:
    """Find a segmentor whose training batches cannot be padded to one size."""
    model = cfg.get('model')
    one = model.get('data_preprocessor') if isinstance(model, dict) else None
    one = one or cfg.get('data_preprocessor')
    if isinstance(one, dict) and str(one.get('type', '')).rpartition('.')[2] == 'SegDataPreProcessor' \
            and cfg.get('train_dataloader') and (one.get('size') is None) == (one.get('size_divisor') is None):
        yield Finding('error', 'model.data_preprocessor', 'SegDataPreProcessor needs either `size` or `size_divisor`, '
                      f'and has {"neither" if one.get("size") is None else "both"}; training would stop at the first '
                      'batch.', 'model = dict(data_preprocessor=dict(size=crop_size))')


def check_evaluator(cfg: Config) -> Iterator[Finding]:
    """Find COCO metrics that read another file than the data set of their split, and mask heads without masks."""
    sets = leaves(cfg)
    for leaf in sets:
        own = leaf.path('ann_file')
        coco = leaf.is_a('CocoDataset') and not leaf.is_a('CocoPanopticDataset')
        if coco and own is not None and sum(other.split == leaf.split for other in sets) == 1:
            for key, metric in walk(cfg._cfg_dict.get(f'{leaf.split}_evaluator'), (f'{leaf.split}_evaluator',)):
                if isinstance(metric, dict) and isinstance(metric.get('ann_file'), str) \
                        and Path(metric['ann_file']) != own:
                    yield Finding(leaf.required, dotted((*key, 'ann_file')),
                                  f'The evaluator reads {metric["ann_file"]}, but {leaf.where} reads {own.as_posix()}.',
                                  assignment((*key, 'ann_file'), repr(own.as_posix())))
        if coco and leaf.split == 'train' and _has_mask_head(cfg.get('model')) \
                and pipeline_argument(leaf, 'LoadAnnotations', 'with_mask', True) is False:
            yield Finding('error', f'{leaf.where}.pipeline',
                          'The model has a mask head, but LoadAnnotations loads no masks.',
                          "dict(type='LoadAnnotations', with_bbox=True, with_mask=True)")


def _has_mask_head(model: Any) -> bool:
    """Whether a two-stage model has a mask branch."""
    roi_head = model.get('roi_head') if isinstance(model, dict) else None
    return isinstance(roi_head, dict) and roi_head.get('mask_head') is not None
