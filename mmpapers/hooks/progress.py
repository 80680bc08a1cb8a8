"""Progress that a person can read: one updating line in a terminal, sparse lines in a file or pipe."""

import logging
import shutil
import sys
import time
from typing import Any, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmpapers.registry import HOOKS

_MEMORY = 200  # steps whose mean time says how much is left


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show epoch, step, loss, learning rate, time per step with the share spent waiting for data, and the time left.

    The time left counts the validations to come as soon as one has been timed. mmengine's own log goes on in the log
    file. Only the main process writes.

    Args:
        seconds: Time between two lines when the output is no terminal; a terminal's line is updated 5 times a second.
        window: Steps over which loss and times are averaged.
        max_metrics: How many metrics of a validation are shown, the loss first, those of classes last; all are logged.
        stream: Where to write; standard output by default.
    """

    priority = 'LOWEST'  # after checkpoints and curves, whose time is not a wait for data

    def __init__(self, seconds: float = 30., window: int = 20, max_metrics: int = 7, stream: TextIO | None = None
                 ) -> None:
        self.seconds, self.window, self.max_metrics = seconds, window, max_metrics
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._on = is_main_process()
        self._open = False
        self._next = 0.
        self._mark = time.perf_counter()
        self._waited = 0.
        self._times: list[tuple[float, float]] = []
        self._started = self._val_start = 0.
        self._val_seconds: list[float] = []

    def before_run(self, runner: Runner) -> None:
        """Keep the log's warnings from being written into the middle of the line."""
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(lambda record: self.clear() is None)

    def before_train(self, runner: Runner) -> None:
        """Say what is trained on what."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        total = sum(p.numel() for p in model.parameters())
        free = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = '' if free == total else f' ({_count(free)} trained)'
        loops = [f'{len(runner.train_dataloader.dataset)} training']
        if runner.val_loop is not None:
            loops.append(f'{len(runner.val_dataloader.dataset)} validation')
        device = next((p.device for p in model.parameters()), 'no device')
        self.say(f'{type(model).__name__}: {_count(total)} parameters{frozen}; {" and ".join(loops)} samples; '
                 f'{runner.max_iters} steps on {device}')
        self._started = self._mark = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Time the wait for data."""
        self._waited = time.perf_counter() - self._mark

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
                         ) -> None:
        """Update the line."""
        now = time.perf_counter()
        self._times = [*self._times[-_MEMORY:], (now - self._mark, self._waited)]
        self._mark = now
        last = runner.iter + 1 == runner.max_iters or (
            runner.max_epochs > 1 and self.end_of_epoch(runner.train_dataloader, batch_idx))
        if self._due(now) or last:
            self._line(self._train_text(runner, batch_idx), keep=last)

    def before_val(self, runner: Runner) -> None:
        """Start the clock of a validation."""
        self._val_start = time.perf_counter()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the line of a validation."""
        self._loop_line('validate', batch_idx, len(runner.val_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Print the metrics."""
        self.clear()
        scalars = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, int | float) or hasattr(v, 'item')}
        # -1 is COCO's word for "no such objects"; the terms of the loss are in the logs.
        names = [k for k, v in scalars.items() if v != -1 and (k == 'loss' or 'loss' not in k)]
        classes = (getattr(runner.val_dataloader.dataset, 'metainfo', None) or {}).get('classes', ())
        names.sort(key=lambda k: (k != 'loss', k.rpartition('/')[2].startswith(tuple(f'{c}_' for c in classes))))
        shown = [f'{k} {scalars[k]:.4g}' for k in names]
        where = f'epoch {runner.epoch}' if runner.max_epochs > 1 else f'step {runner.iter}'
        self.say(f'  validation after {where}: {"  ".join(shown[:self.max_metrics])}')

    def after_val(self, runner: Runner) -> None:
        """Time a validation, and do not count it as waiting for data."""
        now = time.perf_counter()
        self._val_seconds.append(now - self._val_start)
        self._mark = now

    def before_test(self, runner: Runner) -> None:
        """Start the clock of a test."""
        self._val_start = time.perf_counter()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the line of a test."""
        self._loop_line('test', batch_idx, len(runner.test_dataloader))

    def after_run(self, runner: Runner) -> None:
        """End the line."""
        self.clear()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if self._on:
            self.clear()
            self.stream.write(text + '\n')
            self.stream.flush()

    def clear(self) -> None:
        """Remove the updating line, if there is one."""
        if self._open:
            self.stream.write('\r\x1b[K')
            self.stream.flush()
            self._open = False

    def _due(self, now: float) -> bool:
        """Whether it is time for another line."""
        if now < self._next:
            return False
        self._next = now + (0.2 if self.live else self.seconds)
        return True

    def _line(self, text: str, keep: bool = False) -> None:
        """Write the line, updating it in a terminal."""
        if not self.live or keep:
            self.say(text)
        elif self._on:
            self.stream.write('\r\x1b[K' + text[:shutil.get_terminal_size().columns - 1])
            self.stream.flush()
            self._open = True

    def _loop_line(self, name: str, index: int, length: int) -> None:
        """Line of a validation or a test."""
        now = time.perf_counter()
        if self._due(now):
            left = (now - self._val_start) / (index + 1) * (length - index - 1)
            self._line(f'  {name} {index + 1}/{length}  left {_clock(left)}')

    def _train_text(self, runner: Runner, batch_idx: int) -> str:
        """Everything about the current step."""
        hub, done = runner.message_hub, runner.iter + 1
        if runner.max_epochs > 1:
            length = len(runner.train_dataloader)
            place = f'epoch {runner.epoch + 1}/{runner.max_epochs}  {batch_idx + 1:>{len(str(length))}}/{length}'
        else:
            place = f'step {done:>{len(str(runner.max_iters))}}/{runner.max_iters}'
        recent = self._times[-self.window:]
        step = sum(t for t, _ in recent) / len(recent)
        waiting = sum(w for _, w in recent) / max(sum(t for t, _ in recent), 1e-9)
        parts = [place]
        if 'train/loss' in hub.log_scalars:
            parts.append(f'loss {hub.get_scalar("train/loss").mean(self.window):.4f}')
        lr = next((name for name in hub.log_scalars if name.startswith('train/') and name.endswith('lr')), None)
        if lr:
            parts.append(f'lr {hub.get_scalar(lr).current():.2e}')
        speed = f'{step:.2f} s/step' if step >= 0.1 else f'{1 / step:.0f} steps/s'
        average = sum(t for t, _ in self._times) / len(self._times)
        parts += [f'{speed} ({waiting:.0%} waiting for data)', f'left {self._left(runner, done, average)}']
        return '  '.join(parts)

    def _left(self, runner: Runner, done: int, step: float) -> str:
        """Time that is left: steps, and validations once one has been timed."""
        seconds = step * (runner.max_iters - done)
        if self._val_seconds and runner.val_loop is not None:
            by_epoch = runner.max_epochs > 1
            total, now = (runner.max_epochs, runner.epoch) if by_epoch else (runner.max_iters, done)
            seconds += -(-(total - now) // runner.val_interval) * self._val_seconds[-1]
        return _clock(seconds)


def _clock(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'


def _count(number: int) -> str:
    """``12.3 M``."""
    return f'{number / 1e6:.1f} M' if number >= 1e6 else f'{number / 1e3:.1f} k' if number >= 1e3 else str(number)
