"""Shim: a training loader that can begin anywhere and draws the same augmentations however it got there.

Why: mmengine resumes an iteration-based run by loading and throwing away every batch that was trained, cannot resume
inside an epoch, and seeds workers by their start, so what a sample looks like depends on the number of workers and on
how often the run was interrupted.
Upstream: open-mmlab/mmengine#1520, #1633, PR#1550, PR#1542; VBTI-development/onedl-mmengine PR#33 (skips, but
only with mmengine's own samplers).
May go: when mmengine skips at the sampler for any batch sampler and seeds by position.

Here the batch sampler is advanced instead of the loader, and each sample is seeded by the run's seed, the epoch and its
position in the order over all processes. So augmentations do not depend on workers, interruptions or the number of
processes. Transforms that remember earlier samples (cached mosaic, for one) or own a generator stay outside this.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.runner import loops
from torch.utils.data import DataLoader, IterableDataset

_STOCK = loops._InfiniteDataloaderIterator


def derive(*key: int) -> int:
    """Mix non-negative integers to one 64-bit seed; any two keys give independent streams."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_cpu(seed: int) -> None:
    """Seed the generators of Python, numpy and torch's CPU device."""
    random.seed(seed)
    np.random.seed(seed & 0xffffffff)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Put the CPU generators back where they were when the block ends."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class Numbered(list):
    """Indices of one batch with the key of its first sample: ``(seed, epoch, position, stride)``."""

    key: tuple[int, int, int, int]


class SeededFetch:
    """Loads the samples of a batch, each under its own seed (torch's batched-fetch protocol ``__getitems__``).

    Args:
        dataset: The loader's data set.
        inner: The data set's own ``__getitems__``, if it has one.
    """

    def __init__(self, dataset: Any, inner: Any = None) -> None:
        self.dataset = dataset
        self.inner = inner

    def __call__(self, indices: list) -> list:
        if not isinstance(indices, Numbered):
            return self.inner(indices) if self.inner else [self.dataset[index] for index in indices]
        seed, epoch, position, stride = indices.key
        with untouched():
            if self.inner:
                seed_cpu(derive(seed, 0, epoch, position))
                return self.inner(list(indices))
            samples = []
            for offset, index in enumerate(indices):
                seed_cpu(derive(seed, 0, epoch, position + offset * stride))
                samples.append(self.dataset[index])
            return samples


class ResumableBatches:
    """A batch sampler that numbers its samples and can begin after batches that were trained already.

    Args:
        batches: The loader's own batch sampler.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of processes; the batch sampler yields this process's share only.
        endless: Begin again when a finite sampler ends, with the next epoch's order (iteration-based loops).
    """

    def __init__(self, batches: Any, seed: int, rank: int = 0, world_size: int = 1, endless: bool = False) -> None:
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.endless = endless
        self.epoch = 0
        self.start = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Numbered]:
        skip, self.start = self.start, 0
        number = position = rounds = 0
        while True:
            before = number
            for indices in self.batches:
                if number >= skip:
                    batch = Numbered(indices)
                    batch.key = (self.seed, self.epoch, position * self.world_size + self.rank, self.world_size)
                    yield batch
                number += 1
                position += len(indices)
            if not self.endless:
                return
            if number == before:
                raise ValueError('train_dataloader yields no batch: the data set is empty, or smaller than batch_size '
                                 'with drop_last=True')
            rounds += 1
            sampler = getattr(self.batches, 'sampler', self.batches)
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(rounds)


class LazyIterator(_STOCK):
    """mmengine's endless iterator, which starts no worker before the first batch is really wanted.

    Args:
        dataloader: Loader to iterate.
        skip: Number of following calls that skip a trained batch; the loader itself begins after them.
    """

    def __init__(self, dataloader: DataLoader, skip: int = 0) -> None:
        self._dataloader = dataloader
        self._iterator = None
        self._epoch = 0
        self.skip = skip

    def skip_iter(self, count: int) -> None:
        """Skip several batches at once (the fork's way to resume)."""
        already = min(self.skip, count)
        self.skip -= already
        if count > already:
            super().skip_iter(count - already)

    def close(self) -> None:
        """End the workers now. Left to the garbage collector, which ends them in a cycle, each takes 5 seconds."""
        self._iterator = None

    def __next__(self) -> Any:
        if self.skip:
            self.skip -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self._dataloader)
        return super().__next__()


def prepare(loader: DataLoader, seed: int, rank: int = 0, world_size: int = 1,
            endless: bool = False) -> ResumableBatches | None:
    """Make a loader resumable, in place; has to happen before it is iterated.

    Args:
        loader: Training loader over a data set with random access.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of processes.
        endless: Whether the loop expects a loader without end.

    Returns:
        The batch sampler to set ``start`` and ``epoch`` on, or None if the loader has no batch sampler.
    """
    batches = loader.batch_sampler
    if isinstance(batches, ResumableBatches):
        return batches
    if batches is None or isinstance(loader.dataset, IterableDataset):
        return None
    resumable = ResumableBatches(batches, seed, rank, world_size, endless)
    loader.__dict__['batch_sampler'] = resumable  # torch forbids the assignment, for loaders in use
    loader.dataset.__getitems__ = SeededFetch(loader.dataset, getattr(loader.dataset, '__getitems__', None))
    return resumable


def install() -> None:
    """Make mmengine's endless iterator lazy; a second call changes nothing."""
    loops._InfiniteDataloaderIterator = LazyIterator
