"""Weights of loss terms over a run, read from the runner's own counters, so that a resumed run goes on where it was."""

from dataclasses import dataclass
from typing import Any

from mmengine.logging import MessageHub

from mmpapers.distill.errors import DistillError


@dataclass(frozen=True)
class Weight:
    """A loss weight that may change during a run.

    Args:
        value: The weight.
        warmup: Iterations over which it grows linearly from 0 to ``value``: ``value * min((i - begin) / warmup, 1)``.
        begin: Iteration before which it is 0.
        end: Iteration from which it is 0 again; None for never.
        end_epoch: Epoch (counted from 0) from which it is 0 again; None for never.
    """

    value: float = 1.
    warmup: int = 0
    begin: int = 0
    end: int | None = None
    end_epoch: int | None = None

    @classmethod
    def build(cls, setting: Any, key: str) -> 'Weight':
        """Read a config value: a number or a dict of this class's arguments.

        Args:
            setting: The value.
            key: Its key in the config, for messages.

        Raises:
            DistillError: If it is neither.
        """
        if isinstance(setting, Weight):
            return setting
        if isinstance(setting, int | float) and not isinstance(setting, bool):
            return cls(float(setting))
        if isinstance(setting, dict) and not set(setting) - set(cls.__dataclass_fields__):
            return cls(**setting)
        raise DistillError(f'{key}={setting!r} is no loss weight; write a number or dict(value=2., warmup=2000, '
                           'begin=0, end=None, end_epoch=8)')

    def __call__(self) -> float:
        """The weight at the current iteration and epoch of the run (0 outside of a run)."""
        step, epoch = iteration(), current_epoch()
        if step < self.begin or (self.end is not None and step >= self.end) \
                or (self.end_epoch is not None and epoch >= self.end_epoch):
            return 0.
        return self.value * min((step - self.begin) / self.warmup, 1.) if self.warmup else self.value


def iteration() -> int:
    """Iterations that the current run has finished, resumed ones included."""
    return int(_info('iter'))


def current_epoch() -> int:
    """Epochs that the current run has finished."""
    return int(_info('epoch'))


def seed() -> int:
    """Seed of the current run."""
    return int(_info('seed'))


def _info(key: str) -> int:
    return MessageHub.get_current_instance().runtime_info.get(key) or 0
