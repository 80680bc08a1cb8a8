"""Affine primitives: boxes, cylinders, ellipsoids and rings, and bodies made of them.

Each primitive is the image of a canonical shape under ``x = centre + axes @ local``: the cube [-1, 1]^3, the cylinder
of radius 1 and height [-1, 1] along z, the unit ball, or that cylinder with a coaxial hole of radius ``RING_HOLE``.
So sheared blocks (roofs, windscreens) cost no more than upright ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..draw import sincos

BOX, CYLINDER, ELLIPSOID, RING = range(4)
RING_HOLE = 0.84

Vector = Sequence[float]


class Parts:
    """The primitives of one body in the body's own frame (x forward, y left, z up, origin on the ground)."""

    def __init__(self) -> None:
        self._kinds: list[int] = []
        self._rows: list[tuple[float, ...]] = []

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, kind: int, centre: Vector, axes: Sequence[Vector], colour: Vector, material: int,
            style: Vector = (0.0, 0.0, 0.0)) -> None:
        """Add a primitive by its half axes: ``axes[i]`` is the image of the i-th unit vector."""
        self._kinds.append(kind)
        self._rows.append((*centre, *axes[0], *axes[1], *axes[2], *colour, material, *style))

    def box(self, centre: Vector, size: Vector, colour: Vector, material: int, style: Vector = (0.0, 0.0, 0.0),
            turn: float = 0.0) -> None:
        """Add an upright box of full ``size`` (length, width, height), turned left by ``turn`` radians."""
        sine, cosine = sincos(turn)
        a, b, c = size[0] / 2, size[1] / 2, size[2] / 2
        self.add(BOX, centre, ((a * cosine, a * sine, 0), (-b * sine, b * cosine, 0), (0, 0, c)), colour, material,
                 style)

    def ellipsoid(self, centre: Vector, radii: Vector, colour: Vector, material: int) -> None:
        """Add an ellipsoid with axes along the frame."""
        self.add(ELLIPSOID, centre, ((radii[0], 0, 0), (0, radii[1], 0), (0, 0, radii[2])), colour, material)

    def rod(self, start: Vector, end: Vector, radius: float, colour: Vector, material: int, kind: int = CYLINDER,
            flat: float = 1.0) -> None:
        """Add a cylinder (or ring) between two points; ``flat`` scales its second radius."""
        half = [(e - s) / 2 for s, e in zip(start, end)]
        centre = [(e + s) / 2 for s, e in zip(start, end)]
        length = math.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
        z = [h / length for h in half]
        helper = (1.0, 0.0, 0.0) if abs(z[0]) < 0.8 else (0.0, 0.0, 1.0)
        y = (z[1] * helper[2] - z[2] * helper[1], z[2] * helper[0] - z[0] * helper[2],
             z[0] * helper[1] - z[1] * helper[0])
        norm = math.sqrt(y[0] * y[0] + y[1] * y[1] + y[2] * y[2])
        y = [v / norm for v in y]
        x = (y[1] * z[2] - y[2] * z[1], y[2] * z[0] - y[0] * z[2], y[0] * z[1] - y[1] * z[0])
        self.add(kind, centre, ([v * radius for v in x], [v * radius * flat for v in y], half), colour, material)

    def prism(self, bottom: tuple[float, float], top: tuple[float, float], low: float, high: float, width: float,
              colour: Vector, material: int) -> None:
        """Add a trapezoid in side view: x in ``bottom`` at height ``low``, x in ``top`` at ``high``.

        It is the union of two sheared boxes, so neither side may be longer than twice the other.
        """
        length = min(bottom[1] - bottom[0], top[1] - top[0])
        if max(bottom[1] - bottom[0], top[1] - top[0]) > 2 * length:
            raise ValueError(f'prism: {bottom} and {top} differ by more than a factor of two')
        middle, half = (low + high) / 2, (high - low) / 2
        for base, roof in ((bottom[0], top[0]), (bottom[1] - length, top[1] - length)):
            self.add(BOX, ((base + roof + length) / 2, 0, middle),
                     ((length / 2, 0, 0), (0, width / 2, 0), ((roof - base) / 2, 0, half)), colour, material)

    def gable(self, centre: Vector, length: float, width: float, rise: float, colour: Vector, material: int) -> None:
        """Add a roof with its ridge along x; the lower half of the rhombus lies inside the house."""
        self.add(BOX, centre, ((length / 2, 0, 0), (0, width / 4, rise / 2), (0, -width / 4, rise / 2)), colour,
                 material)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Kinds (P,) and rows (P, 19): centre 3, axes 9 (one after the other), colour 3, material, style 3."""
        return np.array(self._kinds, np.int64), np.array(self._rows, np.float64).reshape(-1, 19)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Exact lower and upper corner of the body in its own frame, (3,) each."""
        kinds, rows = self.table()
        reach = _reach(kinds, rows[:, 3:12].reshape(-1, 3, 3))
        return (rows[:, :3] - reach).min(0), (rows[:, :3] + reach).max(0)


def _reach(kinds: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Half extents (P, 3) of primitives along the frame; ``axes`` (P, 3, 3) holds one half axis per row."""
    x, y, z = np.abs(axes[:, 0]), np.abs(axes[:, 1]), np.abs(axes[:, 2])
    round_xy = np.sqrt(x * x + y * y)
    kind = kinds[:, None]
    return np.where(kind == BOX, x + y + z, np.where(kind == ELLIPSOID, np.sqrt(x * x + y * y + z * z), round_xy + z))


@dataclass(frozen=True)
class Primitives:
    """All primitives of a scene as arrays, grouped by body; the members of a body are neighbours.

    Args:
        kind: (P,) one of BOX, CYLINDER, ELLIPSOID, RING.
        centre: (P, 3) ego coordinates.
        axes: (P, 3, 3), ``axes[p, i]`` is the image of the i-th unit vector.
        inverse: (P, 3, 3), maps ego offsets to canonical coordinates.
        body: (P,) index of the body.
        colour: (P, 3) linear albedo.
        material: (P,) code of the renderer.
        style: (P, 3) parameters of the material.
        first: (B + 1,) body b owns the primitives ``first[b]:first[b + 1]``.
        sphere: (B, 4) centre and radius of a ball around each body.
    """

    kind: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    inverse: np.ndarray
    body: np.ndarray
    colour: np.ndarray
    material: np.ndarray
    style: np.ndarray
    first: np.ndarray
    sphere: np.ndarray

    @classmethod
    def place(cls, bodies: Sequence[tuple[Parts, Vector, float]]) -> 'Primitives':
        """Put bodies, given as ``(parts, position, yaw)``, into the ego frame."""
        kinds, rows, owner = [], [], []
        for index, (parts, position, yaw) in enumerate(bodies):
            kind, row = parts.table()
            sine, cosine = sincos(yaw)
            vectors = row[:, :12].reshape(-1, 4, 3)
            x, y = vectors[..., 0].copy(), vectors[..., 1].copy()
            vectors[..., 0] = cosine * x - sine * y
            vectors[..., 1] = sine * x + cosine * y
            vectors[:, 0] += np.array(position, np.float64)
            kinds.append(kind)
            rows.append(row)
            owner.append(np.full(len(kind), index, np.int64))
        kind = np.concatenate(kinds) if kinds else np.zeros(0, np.int64)
        row = np.concatenate(rows) if rows else np.zeros((0, 19))
        body = np.concatenate(owner) if owner else np.zeros(0, np.int64)
        axes = np.ascontiguousarray(row[:, 3:12]).reshape(-1, 3, 3)
        centre = np.ascontiguousarray(row[:, :3])
        first = np.searchsorted(body, np.arange(len(bodies) + 1))
        return cls(kind, centre, axes, _inverse(axes), body, row[:, 12:15].copy(), row[:, 15].astype(np.int64),
                   row[:, 16:19].copy(), first, _spheres(centre, _reach(kind, axes), first))


def _inverse(axes: np.ndarray) -> np.ndarray:
    """Invert the maps whose columns are the half axes (P, 3, 3) by cofactors, with the same bits everywhere."""
    a, b, c = axes[:, 0], axes[:, 1], axes[:, 2]
    rows = [_cross(b, c), _cross(c, a), _cross(a, b)]
    volume = (a[:, 0] * rows[0][:, 0] + a[:, 1] * rows[0][:, 1]) + a[:, 2] * rows[0][:, 2]
    return np.stack(rows, 1) / volume[:, None, None]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1], a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
                     a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]], 1)


def _spheres(centre: np.ndarray, reach: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A ball around the bounding box of each body, (B, 4)."""
    spheres = np.zeros((len(first) - 1, 4))
    for index, (start, stop) in enumerate(zip(first[:-1], first[1:])):
        if stop > start:
            low = (centre[start:stop] - reach[start:stop]).min(0)
            high = (centre[start:stop] + reach[start:stop]).max(0)
            spheres[index, :3] = (low + high) / 2
            spheres[index, 3] = math.sqrt(float(((high - low) ** 2).sum())) / 2
    return spheres
