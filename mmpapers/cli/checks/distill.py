"""The ``distill`` overlay: does the teacher exist, has it weights, and does it know the student's classes?"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpapers.config_tree import walk
from mmpapers.distill.errors import DistillError
from mmpapers.distill.sources import model_config
from mmpapers.distill.teacher import UNTRAINED

from .finding import Finding, assignment


def check_distill(cfg: Config, data: bool = True) -> Iterator[Finding]:
    """Check the short or the long form of a distillation.

    Args:
        cfg: The config, not expanded.
        data: Whether to look for the teacher's checkpoint.
    """
    key, overlay = ('distill', cfg.get('distill')) if cfg.get('distill') is not None else ('model', cfg.get('model'))
    if key == 'distill' and not (isinstance(overlay, dict) and overlay.get('type')):
        yield Finding('error', key, 'distill names no method', "distill = dict(type='mmpapers.<method>', "
                      "teacher='<config>', checkpoint='<weights>')")
        return
    if not isinstance(overlay, dict) or not (key == 'distill' or 'student' in overlay):
        return
    teacher = overlay.get('teacher')
    if teacher is None:
        return  # some methods have none; the others say so when they are built
    folders = ('.', Path(cfg.filename).parent) if cfg.filename else ('.',)
    try:
        model = model_config(teacher, f'{key}.teacher', folders)
    except DistillError as error:
        yield Finding('error', f'{key}.teacher', str(error))
        return
    yield from _checkpoint(overlay.get('checkpoint'), key, data)
    student = overlay['student'] if 'student' in overlay else cfg.get('model')
    yield from _classes(model, student, key)


def _checkpoint(checkpoint: Any, key: str, data: bool) -> Iterator[Finding]:
    """A teacher needs weights that exist."""
    where = f'{key}.checkpoint'
    if checkpoint is None:
        yield Finding('error', where, 'the teacher has no weights, so there is nothing to learn from',
                      assignment((key, 'checkpoint'), "'<file of the trained teacher>'"))
    elif checkpoint in UNTRAINED:
        yield Finding('info', where, f'{checkpoint!r} asks for a teacher that is not trained')
    elif data and '://' not in str(checkpoint) and not os.path.isfile(checkpoint):
        from mmpapers.cli.runtime import nearest
        yield Finding('error', where, f'{checkpoint!r} does not exist{nearest(checkpoint)}',
                      'train the teacher first (tools/train.py <teacher config>), or name its file')


def _classes(teacher: dict, student: Any, key: str) -> Iterator[Finding]:
    """Warn about a teacher of other classes, whose scores mean something else."""
    if isinstance(student, str):
        try:
            student = model_config(student, f'{key}.student')
        except DistillError as error:
            yield Finding('error', f'{key}.student', str(error))
            return
    theirs, ours = _count(teacher), _count(student)
    if theirs and ours and theirs != ours:
        yield Finding('warning', f'{key}.teacher', f'the teacher has {theirs} classes and the student {ours}: methods '
                      'that compare scores cannot run, those that compare features can',
                      'train the teacher on the same classes')


def _count(model: Any) -> int:
    """Classes of a model's heads."""
    counts = [value for path, value in walk(model) if path and path[-1] == 'num_classes' and isinstance(value, int)
              and 'rpn_head' not in path and 'teacher' not in path]
    return min(counts, default=0)
