"""Value noise on an integer lattice, the same on every machine."""

import math

import numpy as np
from numba import njit

_MASK = 0xFFFFFFFF


@njit(cache=True)
def _hash(x: int, y: int, z: int, seed: int) -> float:
    """A float in [0, 1) for a lattice point."""
    h = (x * 0x8DA6B343 + y * 0xD8163841 + z * 0xCB1AB31F + seed * 0x165667B1) & _MASK
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & _MASK
    h = ((h ^ (h >> 12)) * 0x297A2D39) & _MASK
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 0x1000000


@njit(cache=True)
def _smooth(x: float, y: float, z: float, seed: int) -> float:
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for dz in range(2):
        weight_z = w if dz else 1 - w
        if weight_z == 0:
            continue
        for dy in range(2):
            weight = weight_z * (v if dy else 1 - v)
            total += weight * ((1 - u) * _hash(i, j + dy, k + dz, seed) + u * _hash(i + 1, j + dy, k + dz, seed))
    return total


@njit(cache=True)
def _fractal(points: np.ndarray, octaves: int, seed: int, out: np.ndarray) -> None:
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        total, weight, scale = 0.0, 0.5, 0.0
        for octave in range(octaves):
            total += weight * _smooth(x, y, z, seed + octave)
            scale += weight
            weight *= 0.5
            x, y, z = 2.03 * x + 17.3, 2.03 * y + 5.7, 2.03 * z
        out[n] = total / scale


@njit(cache=True)
def _cells(cells: np.ndarray, seed: int, out: np.ndarray) -> None:
    for n in range(len(cells)):
        out[n] = _hash(cells[n, 0], cells[n, 1], cells[n, 2], seed)


def fractal(points: np.ndarray, octaves: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth noise in [0, 1] with feature size 1 and its octaves.

    Args:
        points: (N, 2) or (N, 3) coordinates.
        octaves: Number of octaves, each of half the size and strength of the one before.
        seed: Another seed gives another pattern.

    Returns:
        Noise (N,), float32.
    """
    full = np.zeros((len(points), 3))
    full[:, :points.shape[1]] = points
    out = np.empty(len(points), np.float32)
    _fractal(full, octaves, seed, out)
    return out


def cell_noise(cells: np.ndarray, seed: int = 0) -> np.ndarray:
    """One uniform number in [0, 1) per integer cell (N, 3); float32 (N,)."""
    out = np.empty(len(cells), np.float32)
    _cells(np.ascontiguousarray(cells, np.int64), seed, out)
    return out
