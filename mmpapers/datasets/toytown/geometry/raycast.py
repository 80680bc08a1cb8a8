"""Rays against affine primitives: a z-buffer for cameras, and free rays for shadows, mirrors and LiDAR.

The kernels use only + - * / and square roots in float64, in a fixed order, so every machine finds the same hits.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from .camera import Camera
from .primitives import BOX, CYLINDER, ELLIPSOID, RING_HOLE, Primitives

Array = np.ndarray

NEAREST = 1e-6
_NEAR_PLANE = 0.05
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array([(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit])


@dataclass(frozen=True)
class Hits:
    """What a set of rays meets first.

    Args:
        distance: Ray parameter of the hit, infinite where nothing is met; any shape S.
        primitive: Index of the primitive, -1 where nothing is met, shape S.
    """

    distance: np.ndarray
    primitive: np.ndarray


@njit(cache=True)
def _nearer(best: float, t: float) -> float:
    return t if NEAREST < t < best else best


@njit(cache=True)
def _roots(a: float, b: float, c: float) -> tuple[float, float]:
    """Both real roots of a t^2 + 2 b t + c, or infinities; without cancellation."""
    root = b * b - a * c
    if root < 0 or a == 0:
        return math.inf, math.inf
    q = -(b + math.sqrt(root)) if b > 0 else -b + math.sqrt(root)
    return q / a, (c / q if q != 0 else q / a)


@njit(cache=True)
def _hit(kind: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Smallest parameter above NEAREST at which a ray in canonical coordinates meets the shape's surface."""
    best = math.inf
    if kind == BOX:
        enter, leave = -math.inf, math.inf
        for o, d in ((ox, dx), (oy, dy), (oz, dz)):
            if d == 0:
                if o < -1 or o > 1:
                    return best
            else:
                a, b = (-1 - o) / d, (1 - o) / d
                if a > b:
                    a, b = b, a
                enter, leave = max(enter, a), min(leave, b)
        if enter <= leave:
            best = _nearer(best, leave)
            best = _nearer(best, enter)
        return best
    if kind == ELLIPSOID:
        a, b = _roots(dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz - 1)
        return _nearer(_nearer(best, a), b)
    a, b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy
    hole = 0.0 if kind == CYLINDER else RING_HOLE * RING_HOLE
    for t in _roots(a, b, c - 1):
        if abs(oz + t * dz) <= 1:
            best = _nearer(best, t)
    if hole > 0:
        for t in _roots(a, b, c - hole):
            if abs(oz + t * dz) <= 1:
                best = _nearer(best, t)
    if dz != 0:
        for side in (-1.0, 1.0):
            t = (side - oz) / dz
            x, y = ox + t * dx, oy + t * dy
            if hole <= x * x + y * y <= 1:
                best = _nearer(best, t)
    return best


@njit(cache=True)
def _local(m: Array, x: float, y: float, z: float) -> tuple[float, float, float]:
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z, m[1, 0] * x + m[1, 1] * y + m[1, 2] * z,
            m[2, 0] * x + m[2, 1] * y + m[2, 2] * z)


@njit(cache=True)
def _fill(origin: Array, rays: Array, window: Array, kind: Array, centre: Array, inverse: Array, body: Array,
          distance: Array, primitive: Array, covered: Array) -> None:
    height, width = distance.shape
    stamp = np.full((height, width), -1, np.int64)
    for p in range(len(kind)):
        ox, oy, oz = _local(inverse[p], origin[0] - centre[p, 0], origin[1] - centre[p, 1], origin[2] - centre[p, 2])
        for v in range(window[p, 1], window[p, 3]):
            for u in range(window[p, 0], window[p, 2]):
                dx, dy, dz = _local(inverse[p], rays[v, u, 0], rays[v, u, 1], rays[v, u, 2])
                t = _hit(kind[p], ox, oy, oz, dx, dy, dz)
                if t == math.inf:
                    continue
                if stamp[v, u] != body[p]:
                    stamp[v, u] = body[p]
                    covered[body[p]] += 1
                if t < distance[v, u]:
                    distance[v, u] = t
                    primitive[v, u] = p


@njit(cache=True)
def _trace(origins: Array, rays: Array, limit: float, first_only: bool, kind: Array, centre: Array, inverse: Array,
           first: Array, sphere: Array, distance: Array, primitive: Array) -> None:
    for n in range(len(rays)):
        x, y, z = origins[n, 0], origins[n, 1], origins[n, 2]
        dx, dy, dz = rays[n, 0], rays[n, 1], rays[n, 2]
        square = dx * dx + dy * dy + dz * dz
        best, found = limit, -1
        for b in range(len(sphere)):
            sx, sy, sz = x - sphere[b, 0], y - sphere[b, 1], z - sphere[b, 2]
            along = sx * dx + sy * dy + sz * dz
            outside = sx * sx + sy * sy + sz * sz - sphere[b, 3] * sphere[b, 3]
            if outside > 0 and (along > 0 or along * along < square * outside):
                continue
            for p in range(first[b], first[b + 1]):
                m = inverse[p]
                ox, oy, oz = _local(m, x - centre[p, 0], y - centre[p, 1], z - centre[p, 2])
                lx, ly, lz = _local(m, dx, dy, dz)
                t = _hit(kind[p], ox, oy, oz, lx, ly, lz)
                if t < best:
                    best, found = t, p
            if first_only and found >= 0:
                break
        if found >= 0:
            distance[n] = best
            primitive[n] = found


@njit(cache=True)
def _block(points: Array, order: Array, start: Array, cells: tuple, direction: Array, kind: Array, centre: Array,
           inverse: Array, blocked: Array) -> None:
    columns = cells[4]
    for p in range(len(kind)):
        m = inverse[p]
        dx, dy, dz = _local(m, direction[0], direction[1], direction[2])
        for row in range(cells[1][p], cells[3][p] + 1):
            for slot in range(start[row * columns + cells[0][p]], start[row * columns + cells[2][p] + 1]):
                n = order[slot]
                if not blocked[n]:
                    ox, oy, oz = _local(m, points[n, 0] - centre[p, 0], points[n, 1] - centre[p, 1],
                                        points[n, 2] - centre[p, 2])
                    blocked[n] = _hit(kind[p], ox, oy, oz, dx, dy, dz) < math.inf


@njit(cache=True)
def _surface(points: Array, which: Array, kind: Array, centre: Array, inverse: Array, local: Array,
             normal: Array) -> None:
    for n in range(len(points)):
        p = which[n]
        m = inverse[p]
        x, y, z = _local(m, points[n, 0] - centre[p, 0], points[n, 1] - centre[p, 1], points[n, 2] - centre[p, 2])
        local[n, 0], local[n, 1], local[n, 2] = x, y, z
        gx, gy, gz = x, y, z
        if kind[p] == BOX:
            ax, ay, az = abs(x), abs(y), abs(z)
            gx = math.copysign(1.0, x) if ax >= ay and ax >= az else 0.0
            gy = math.copysign(1.0, y) if ay > ax and ay >= az else 0.0
            gz = math.copysign(1.0, z) if az > ax and az > ay else 0.0
        elif kind[p] != ELLIPSOID:
            if abs(z) > 1 - 1e-9:
                gx, gy, gz = 0.0, 0.0, math.copysign(1.0, z)
            else:
                gz = 0.0
                if kind[p] != CYLINDER and x * x + y * y < (0.5 + 0.5 * RING_HOLE) ** 2:
                    gx, gy = -x, -y
        # Normals map with the transposed inverse.
        nx = m[0, 0] * gx + m[1, 0] * gy + m[2, 0] * gz
        ny = m[0, 1] * gx + m[1, 1] * gy + m[2, 1] * gz
        nz = m[0, 2] * gx + m[1, 2] * gy + m[2, 2] * gz
        norm = math.sqrt(nx * nx + ny * ny + nz * nz)
        normal[n, 0], normal[n, 1], normal[n, 2] = nx / norm, ny / norm, nz / norm


def windows(camera: Camera, primitives: Primitives, samples: int = 1) -> np.ndarray:
    """Columns and rows that each primitive can touch, (P, 4) as left, top, right, bottom (exclusive).

    They hold its bounding block, cut at a plane just before the camera; behind that plane the window is empty.
    """
    axes = primitives.axes
    corners = (_CORNERS[None, :, 0:1] * axes[:, None, 0] + _CORNERS[None, :, 1:2] * axes[:, None, 1]
               + _CORNERS[None, :, 2:3] * axes[:, None, 2]) + primitives.centre[:, None]
    depth = camera.project(corners)[1]
    start, end = depth[:, _EDGES[:, 0]], depth[:, _EDGES[:, 1]]
    crosses = (start < _NEAR_PLANE) != (end < _NEAR_PLANE)
    part = (_NEAR_PLANE - start) / np.where(crosses, end - start, 1.0)
    cuts = corners[:, _EDGES[:, 0]] * (1 - part[..., None]) + corners[:, _EDGES[:, 1]] * part[..., None]
    pixels = camera.project(np.concatenate([corners, cuts], 1))[0]
    real = np.concatenate([depth >= _NEAR_PLANE, crosses], 1)[..., None]
    size = np.array([camera.width, camera.height])
    low = np.where(real, pixels, np.inf).min(1)
    high = np.where(real, pixels, -np.inf).max(1)
    low = np.clip(np.floor(np.clip(low, -2, size + 2)) - 1, 0, size)
    high = np.clip(np.ceil(np.clip(high, -2, size + 2)) + 2, 0, size)
    return np.ascontiguousarray(np.concatenate([low, high], 1).astype(np.int64) * samples)


def cast_camera(camera: Camera, rays: np.ndarray, primitives: Primitives) -> tuple[Hits, np.ndarray]:
    """Cast a camera's rays into a z-buffer.

    Args:
        camera: The camera.
        rays: Its directions (samples * height, samples * width, 3), see :meth:`Camera.directions`.
        primitives: What can be hit; the ground is not among them.

    Returns:
        Hits of shape (samples * height, samples * width), whose distance is the depth along the optical axis, and the
        number of rays (B,) that meet each body when nothing stands in front of it.
    """
    distance = np.full(rays.shape[:2], np.inf)
    primitive = np.full(rays.shape[:2], -1, np.int64)
    covered = np.zeros(len(primitives.sphere), np.int64)
    _fill(np.array(camera.position), rays, windows(camera, primitives, rays.shape[0] // camera.height),
          primitives.kind, primitives.centre, primitives.inverse, primitives.body, distance, primitive, covered)
    return Hits(distance, primitive), covered


def cast_rays(origins: np.ndarray, directions: np.ndarray, primitives: Primitives, limit: float = math.inf,
              any_hit: bool = False) -> Hits:
    """Cast free rays: shadows, mirror images, LiDAR beams.

    Args:
        origins: (N, 3) starting points in the ego frame.
        directions: (N, 3); distances are in multiples of their length.
        primitives: What can be hit; the ground is not among them.
        limit: Only hits nearer than this count.
        any_hit: Stop at the first body hit, not necessarily the nearest (enough for shadows).

    Returns:
        Hits of shape (N,).
    """
    distance = np.full(len(directions), np.inf)
    primitive = np.full(len(directions), -1, np.int64)
    _trace(np.ascontiguousarray(origins, np.float64), np.ascontiguousarray(directions, np.float64), limit, any_hit,
           primitives.kind, primitives.centre, primitives.inverse, primitives.first, primitives.sphere, distance,
           primitive)
    return Hits(distance, primitive)


def in_shadow(points: np.ndarray, direction: np.ndarray, primitives: Primitives, grid: int = 256) -> np.ndarray:
    """Whether primitives stand between points and a light far away: many parallel rays, sorted into a grid.

    Args:
        points: (N, 3) in the ego frame, a little above their surface.
        direction: (3,) towards the light.
        primitives: What can cast a shadow.
        grid: Cells along each side of the plane across the light.

    Returns:
        Boolean (N,).
    """
    blocked = np.zeros(len(points), np.bool_)
    if not len(points) or not len(primitives.kind):
        return blocked
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    across = np.cross(direction, helper)
    plane = np.stack([across, np.cross(direction, across)])
    place = points @ plane.T
    low = place.min(0)
    step = np.maximum((place.max(0) - low) / grid, 1e-9)
    cell = np.clip((place - low) / step, 0, grid - 1).astype(np.int64)
    cell = cell[:, 1] * grid + cell[:, 0]
    order = np.argsort(cell, kind='stable')
    start = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=grid * grid))])
    middle, reach = primitives.centre @ plane.T, np.abs(primitives.axes @ plane.T).sum(1)
    first, last = ((middle + sign * reach - low) / step for sign in (-1, 1))
    seen = ((last >= 0) & (first < grid)).all(1)
    first, last = (np.clip(edge[seen], 0, grid - 1).astype(np.int64) for edge in (first, last))
    _block(np.ascontiguousarray(points, np.float64), order, start, (*first.T.copy(), *last.T.copy(), grid),
           np.ascontiguousarray(direction, np.float64), primitives.kind[seen], primitives.centre[seen],
           primitives.inverse[seen], blocked)
    return blocked


def surface(points: np.ndarray, which: np.ndarray, primitives: Primitives) -> tuple[np.ndarray, np.ndarray]:
    """Canonical coordinates and outward unit normals at hit points.

    Args:
        points: (N, 3) on the surface of primitives ``which``, ego frame.
        which: (N,) indices of primitives.

    Returns:
        Local coordinates (N, 3) and normals in the ego frame (N, 3).
    """
    local = np.empty((len(points), 3))
    normal = np.empty((len(points), 3))
    _surface(np.ascontiguousarray(points, np.float64), np.ascontiguousarray(which, np.int64), primitives.kind,
             primitives.centre, primitives.inverse, local, normal)
    return local, normal
