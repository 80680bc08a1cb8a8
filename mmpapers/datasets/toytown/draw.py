"""Random draws that are the same on every machine and for every version of NumPy."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar('T')


class Draw:
    """Draws from PCG64, built only on its raw doubles, whose stream NumPy never changes.

    Args:
        key: Integers that name the stream, e.g. ``(seed, split, scene)``. Different keys give independent streams.
    """

    def __init__(self, *key: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * float(self._rng.random())

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + min(int((high - low + 1) * float(self._rng.random())), high - low)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self._rng.random()) < probability

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options, with probability proportional to its weight."""
        if weights is None:
            return options[self.integer(0, len(options) - 1)]
        mark = float(self._rng.random()) * math.fsum(weights)
        for option, weight in zip(options, weights):
            mark -= weight
            if mark < 0:
                return option
        return options[-1]

    def bell(self, shape: tuple[int, ...]) -> np.ndarray:
        """Bell-shaped noise of the given shape, mean 0 and variance 1, bounded by 3 (a sum of three uniforms)."""
        return 2 * (self._rng.random((3, *shape)).sum(0) - 1.5)

    def array(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform floats in [low, high) of the given shape."""
        return low + (high - low) * self._rng.random(shape)


def sincos(angle: float) -> tuple[float, float]:
    """Sine and cosine in radians, rounded to 12 digits so that the last bit of a platform's libm does not matter."""
    return round(math.sin(angle), 12), round(math.cos(angle), 12)
