"""Shim: checkpoints appear under their name only when they are complete and readable, and the last good one is found.

Why: mmengine writes a checkpoint straight into its final name after it has deleted the old one, and resumes from
whatever ``last_checkpoint`` names. A crash, a kill or a full disk while writing loses both; the next start fails on the
torn file or, in a folder without ``last_checkpoint``, trains from the beginning. ``OneCycleLR`` puts a function into
the checkpoint, which ``torch.load`` refuses with ``weights_only``; it is left out, a new scheduler has its own.
Upstream: open-mmlab/mmdetection#7487, mmyolo#827 (loss jumps after resume); not worked on. The function: not reported.
May go: when mmengine writes atomically and verifies what it resumes from, and keeps functions out of its states.
"""

import contextlib
import functools
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mmpapers.compat.checkpoint import CheckpointError, damage
from mmpapers.compat.mending import wrap

PARTIAL = '.partial'
_written: set[str] = set()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary name beside ``target`` and put that file in its place when the block ends well.

    The data is on the disk before the name changes. If the block fails, the temporary file is removed and ``target``
    is what it was before.
    """
    partial = target.with_name(target.name + PARTIAL)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        with partial.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every system can sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(text: str, target: str | os.PathLike) -> None:
    """Write a small text file in one step."""
    with replacing(Path(target)) as partial:
        partial.write_text(text)


def write(checkpoint: Any, target: str | os.PathLike) -> None:
    """Save a checkpoint in one step.

    A file of that name from an earlier run is not overwritten but moved into a folder ``earlier_<time>`` beside it.

    Raises:
        CheckpointError: If it could not be written (full disk, no permission); what was there before is intact.
    """
    target = Path(target)
    try:
        with replacing(target) as partial:
            with partial.open('wb') as file:
                torch.save(checkpoint, file)
            wrong = damage(partial)
            if wrong:
                raise OSError(f'the written file {wrong}')
            keep_earlier(target)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(_why(target, error)) from error
    _written.add(os.path.realpath(target))


def _why(target: Path, error: BaseException) -> str:
    """One sentence about a failed save; torch hides the system's reason in the error's context."""
    cause = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    reason = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error).partition('\n')[0]
    free = ''
    with contextlib.suppress(OSError):
        free = f'; {shutil.disk_usage(target.parent).free / 1e6:.0f} MB are free in {target.parent}'
    return (f'The checkpoint {target} could not be saved ({reason}{free}). Earlier checkpoints are untouched: make '
            'room or choose another --work-dir, then go on with --resume.')


def keep_earlier(target: Path) -> None:
    """Move a file that this process did not write out of the way of a new one."""
    if not target.exists() or os.path.realpath(target) in _written:
        return
    stamp = time.strftime('%Y%m%d_%H%M%S', time.localtime(target.stat().st_mtime))
    folder = target.parent / f'earlier_{stamp}'
    folder.mkdir(exist_ok=True)
    os.replace(target, folder / target.name)
    from mmengine.logging import print_log
    print_log(f'{target.name} of an earlier run was moved to {folder}', logger='current')


def find_latest(work_dir: str | os.PathLike) -> tuple[str | None, list[str]]:
    """Find the checkpoint to resume from: the one named in ``last_checkpoint``, else the newest that is whole.

    Args:
        work_dir: Folder of the run.

    Returns:
        Path of the last good checkpoint, or None, and one sentence for every file that had to be passed over.
    """
    folder = Path(work_dir)
    notes = [f'{path} is the rest of a save that was interrupted; it is not used.'
             for path in sorted(folder.glob(f'*{PARTIAL}')) if path.name != f'last_checkpoint{PARTIAL}']
    candidates = sorted((path for path in folder.glob('*.pth') if re.fullmatch(r'.*_\d+', path.stem)
                         and not path.name.startswith('best_')), key=_age)
    named = _named_by(folder)
    if named is not None:
        candidates = [path for path in candidates if path.resolve() != named.resolve()]
        candidates.append(named)
    while candidates:
        path = candidates.pop()
        if path.is_dir():  # DeepSpeed saves folders
            return str(path), notes
        wrong = damage(path, deep=True)
        if wrong is None:
            return str(path), notes
        notes.append(f'{path} {wrong}.')
    return None, notes


def _named_by(folder: Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names; also when the folder was moved since."""
    try:
        text = (folder / 'last_checkpoint').read_text().strip()
    except OSError:
        return None
    if not text:
        return None
    moved = folder / os.path.basename(text)
    return moved if moved.exists() and not os.path.exists(text) else Path(text)


def _age(path: Path) -> tuple[float, int]:
    """Sort key: time of writing, then the number in the name."""
    return path.stat().st_mtime, int(re.search(r'(\d+)$', path.stem).group(1))


def _find_latest_checkpoint(path: str) -> str | None:
    """mmengine's function of that name, with the torn files left out and named in the log."""
    from mmengine.logging import print_log
    found, notes = find_latest(path)
    for note in notes:
        print_log(note, logger='current', level=logging.WARNING)
    return found


def _save_checkpoint(stock: Callable, checkpoint: dict, filename: str, file_client_args: dict | None = None,
                     backend_args: dict | None = None) -> None:
    """mmengine's function of that name; local files are written by :func:`write`, other storage as before."""
    if file_client_args is None and backend_args is None and '://' not in os.fspath(filename):
        write(checkpoint, filename)
    else:
        stock(checkpoint, filename, file_client_args, backend_args)


def _state_without_functions(stock: Callable) -> Callable:
    """A scheduler's state without functions: loading it back leaves those of the new scheduler in place."""
    return lambda self: {key: value for key, value in stock(self).items() if not callable(value)}


def install() -> None:
    """Replace mmengine's functions; a second call changes nothing."""
    from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
    from mmengine.runner import checkpoint, runner
    wrap(_ParamScheduler, 'state_dict', _state_without_functions)
    if isinstance(checkpoint.save_checkpoint, functools.partial):
        return
    save = functools.partial(_save_checkpoint, checkpoint.save_checkpoint)
    for module in (sys.modules['mmengine.runner'], checkpoint, runner):
        module.save_checkpoint = save
        module.find_latest_checkpoint = _find_latest_checkpoint
