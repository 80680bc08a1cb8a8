"""Plain logs beside whatever backend a config uses: CSV for spreadsheets, JSON lines for programs."""

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from mmpapers.registry import HOOKS

LOG = 'log.jsonl'


@HOOKS.register_module()
class RecordHook(Hook):
    """Write one row per logged step to ``train.csv``, one per validation to ``val.csv``, and both to ``log.jsonl``.

    The files lie in the run's log folder, ``<work_dir>/<timestamp>``. Losses and times are means over the steps since
    the last row; learning rates are those of the step. Every row has ``mode``, ``iter`` (steps done), ``epoch`` and
    ``seconds`` (since the start). The first line of ``log.jsonl`` has mode 'start' and the step where the
    run begins.

    Args:
        interval: Steps per row; that of the config's ``LoggerHook`` by default.
    """

    priority = 'LOW'

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval
        self._columns: dict[str, list[str]] = {}
        self._last = 0
        self._folder: Path | None = None
        self._start = 0.

    def before_train(self, runner: Runner) -> None:
        """Begin the log of this run."""
        if self.interval is None:
            self.interval = next((h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 10)
        self._folder, self._start, self._last = Path(runner.log_dir), time.time(), runner.iter
        if is_main_process():
            self._write_json(dict(mode='start', iter=runner.iter, epoch=runner.epoch, max_iters=runner.max_iters))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
                         ) -> None:
        """Write a row every ``interval`` steps, at the end of an epoch, and at the very end."""
        done = runner.iter + 1
        if done % self.interval and done != runner.max_iters and not (
                self.end_of_epoch(runner.train_dataloader, batch_idx) and runner.max_epochs > 1):
            return
        row = {}
        for name, buffer in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                name = name.removeprefix('train/')
                row[name] = buffer.current() if name.endswith('lr') else buffer.mean(done - self._last)
        if torch.cuda.is_available():
            row['memory_mb'] = torch.cuda.max_memory_allocated() / 2**20
        self._last = done
        self._write('train', done, runner.epoch + 1, row)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the scalars of a validation."""
        if self._folder is not None:
            scalars = {name: float(value) for name, value in (metrics or {}).items()
                       if isinstance(value, int | float) or getattr(value, 'size', None) == 1}
            self._write('val', runner.iter, runner.epoch, scalars)

    def _write(self, mode: str, done: int, epoch: int, values: dict[str, float]) -> None:
        """Append a row to both files of this mode."""
        if not is_main_process():
            return
        row = dict(mode=mode, iter=done, epoch=epoch, seconds=round(time.time() - self._start, 3),
                   **{name: float(f'{float(value):.7g}') for name, value in values.items()})
        self._write_json(row)
        path = self._folder / f'{mode}.csv'
        columns = self._columns.setdefault(mode, [])
        new = [name for name in row if name not in columns]
        if new:
            rows = list(csv.DictReader(path.open(encoding='utf-8'))) if columns else []
            columns += new
            with path.open('w', encoding='utf-8', newline='') as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
        with path.open('a', encoding='utf-8', newline='') as file:
            csv.DictWriter(file, columns).writerow(row)

    def _write_json(self, row: dict[str, Any]) -> None:
        """Append a line; JSON knows no NaN, so what is not finite becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with (self._folder / LOG).open('a', encoding='utf-8') as file:
            file.write(json.dumps(clean) + '\n')
