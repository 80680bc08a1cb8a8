"""A console that a newcomer can read: mmengine's log goes to the log file, the stack's routine warnings nowhere."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def build_runner(cfg: Config, verbose: bool = False, tables: bool = False) -> Runner:
    """Build the runner that a config asks for, with a console that leaves mmengine's log to the log file.

    Args:
        cfg: Complete config.
        verbose: Keep mmengine's full log on the console.
        tables: Let tables of results per class through.
    """
    cls = RUNNERS.get(cfg.runner_type) if 'runner_type' in cfg else Runner
    if not verbose:
        cls = type(cls.__name__, (_QuietConsole, cls), {'tables': tables})
    return cls.from_cfg(cfg)


class _QuietConsole:
    """Lets warnings, and tables if asked for, through to the console; everything stays in the log file."""

    tables = False

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(self._worth_reading)
                handler.setFormatter(_Plain())
        return logger

    def _worth_reading(self, record: logging.LogRecord) -> bool:
        """Whether a newcomer should see a record."""
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            return self.tables and '\n+--' in text
        return not any(noise in text for noise in ROUTINE_LOGS)


class _Plain(logging.Formatter):
    """The message alone; 'warning: ' before what is more than information (an error that ends the run is raised)."""

    def format(self, record: logging.LogRecord) -> str:
        return ('warning: ' if record.levelno >= logging.WARNING else '') + super().format(record).strip()


# Messages that every run of the stack prints and that a user can do nothing about.
ROUTINE_LOGS = ('Failed to search registry with scope', 'The prefix is not set in metric class',
                '"FileClient" will be deprecated', '"HardDiskBackend" is the alias',
                '`save_param_scheduler` is True but', '`resume_param_scheduler` is True but',
                'is skipped since its requires_grad=False')
ROUTINE_WARNINGS = ('The draw is False', '.*torch.meshgrid', '.*__floordiv__', '.*pretrained.* is deprecated',
                    '.*would be deprecated soon', 'Default ``avg_non_ignore`` is False', '.* is out of bounds',
                    'Setting (MKL|OMP)_NUM_THREADS')


@contextmanager
def quiet_stack(verbose: bool = False) -> Iterator[None]:
    """Silence warnings of the stack that a user can do nothing about, and pycocotools' prints, during a run.

    Args:
        verbose: Silence nothing.
    """
    if verbose:
        yield
        return
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter('ignore', category)
        for text in ROUTINE_WARNINGS:
            warnings.filterwarnings('ignore', message=text)
        warnings.showwarning = _one_line
        _hush_pycocotools()
        yield


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Print a warning in one line, without the source line that raised it."""
    print(f'warning: {" ".join(str(message).split())} ({Path(filename).name}:{lineno})', file=sys.stderr)


def _hush_pycocotools() -> None:
    """Send pycocotools' prints to the log file, if a run has one; a redirected stdout (how mmdet reads the summary)
    still gets them."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        return
    console = sys.stdout

    def log(*values: Any, **kwargs: Any) -> None:
        if sys.stdout is not console:
            print(*values, **kwargs)
        else:
            from mmengine.logging import MMLogger
            logger = MMLogger.get_current_instance()
            if any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
                logger.info(' '.join(map(str, values)))

    coco.print = cocoeval.print = log
