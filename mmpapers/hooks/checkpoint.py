"""Checkpoints that survive crashes, and runs that go on from them as if nothing had happened."""

import contextlib
import functools
import os.path as osp
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmpapers.compat import checkpoint as loading
from mmpapers.compat import loader, saving
from mmpapers.compat.saving import find_latest
from mmpapers.registry import HOOKS

__all__ = ['SafeCheckpointHook', 'find_latest']


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with the same arguments, for runs that may be interrupted at any moment.

    Saving: a file appears under its name only when it is complete and on the disk; ``last_checkpoint`` follows, then
    outdated files go. When saving fails, training stops with one sentence and the earlier checkpoints are intact. A
    file of an earlier run with the same name is moved to ``earlier_<time>``, never overwritten.

    Resuming: training continues with the batch after the last saved step, inside an epoch as well, without loading
    the batches before it. Every step draws its random numbers (dropout, random sizes) from a seed made of the run's
    seed, the rank and the step; every sample is augmented under a seed made of the run's seed, the epoch and its
    position. So the file carries no generator state, and validating, drawing or restarting in between changes
    nothing: on CPU, 4 steps equal 2 + resume + 2 bit for bit.

    Outside of this: gradients accumulated over steps when a checkpoint falls between two updates, and transforms that
    remember earlier samples (``CachedMosaic``).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for shim in (loading, saving, loader):
            shim.install()
        self._resume_at = 0  # batches of the current epoch that were trained before the checkpoint
        self._epoch = self._epoch_began = self._shift = 0
        self._batches: loader.ResumableBatches | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how far the current epoch has come."""
        meta = checkpoint['meta']
        inside = meta['epoch'] == self._epoch
        meta['iter_in_epoch'] = meta['iter'] - self._epoch_began if inside else 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read where to go on.

        Raises:
            CheckpointError: If a run is to be resumed from a file that holds weights only.
        """
        if not runner._resume:
            return
        missing = [key for key in ('meta', 'message_hub', 'state_dict') if key not in checkpoint]
        if missing or 'iter' not in checkpoint['meta']:
            raise loading.CheckpointError(
                f'Cannot resume from {runner._load_from or runner.work_dir}: it holds weights without the state of a '
                'run. To start a new run from these weights, set load_from to it and leave out --resume.')
        self._resume_at = checkpoint['meta'].get('iter_in_epoch', 0)

    def before_train(self, runner: Runner) -> None:
        """Make loader and loop resumable; both are built, and no batch has been drawn."""
        super().before_train(runner)
        loop = runner.train_loop
        by_iter = hasattr(loop, 'dataloader_iterator')
        self._batches = loader.prepare(loop.dataloader, runner.seed, get_rank(), get_world_size(), endless=by_iter)
        if self._batches is None:
            runner.logger.warning('train_dataloader has no batch sampler: a resumed run will see other batches.')
        elif by_iter:
            self._batches.start = loop.iter
            loop.dataloader_iterator = loader.LazyIterator(loop.dataloader, skip=loop.iter)
        loop.run_iter = functools.partial(self._run_iter, runner, loop.run_iter)

    def after_train(self, runner: Runner) -> None:
        """End the loader's workers, then publish as the parent does."""
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        if isinstance(iterator, loader.LazyIterator):
            iterator.close()
        super().after_train(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin the epoch after the batches that were trained already."""
        start, self._resume_at = self._resume_at, 0
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            return
        self._epoch, self._shift = runner.epoch, start if self._batches else 0
        self._epoch_began = runner.iter - self._shift
        if self._batches:
            self._batches.epoch, self._batches.start = runner.epoch, self._shift

    def _run_iter(self, runner: Runner, run_iter: Callable, *args: Any) -> Any:
        """Run a step of the loop under its own seed; an epoch-based loop also gets the true index of the batch."""
        torch.manual_seed(loader.derive(runner.seed, 1, get_rank(), runner.iter))
        loader.seed_cpu(loader.derive(runner.seed, 1, get_rank(), runner.iter))
        if len(args) == 2:
            args = (args[0] + self._shift, args[1])
        return run_iter(*args)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, point ``last_checkpoint`` to the file, then remove what is outdated, in this order."""
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        outdated = []
        if self.max_keep_ckpts > 0:
            kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
            outdated, kept = kept[:-self.max_keep_ckpts], kept[-self.max_keep_ckpts:]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        runner.save_checkpoint(
            self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
            backend_args=self.backend_args, **self.args)
        if is_main_process():
            saving.write_text(self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint'))
            for number in outdated:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(number)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save as the parent does, but remove the previous best only after the new one is there."""
        with self._removals_after() as outdated:
            super()._save_best_checkpoint(runner, metrics)
        best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
        for path in outdated:
            if path not in best:
                self._remove(path)

    @contextlib.contextmanager
    def _removals_after(self) -> Iterator[list[str]]:
        """Collect the paths that the block removes instead of removing them."""
        backend, outdated = self.file_backend, []
        self.file_backend = _Postponed(backend, outdated)
        try:
            yield outdated
        finally:
            self.file_backend = backend

    def _remove(self, path: str) -> None:
        """Remove a checkpoint; DeepSpeed's are folders."""
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)


class _Postponed:
    """A file backend that writes removals down.

    Args:
        backend: The real one.
        removed: List that takes the paths.
    """

    def __init__(self, backend: Any, removed: list[str]) -> None:
        self._backend = backend
        self.remove = self.rmtree = removed.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
