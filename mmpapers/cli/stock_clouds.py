"""Point clouds for benchmarks and trials: a street seen by a spinning LiDAR, and a room."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def street(rng: np.random.Generator, boxes: Array, reach: Sequence[float] = (0, -40, 70, 40), beams: int = 48,
           rays: int = 500) -> Array:
    """Scan boxes on flat ground between two walls, from the origin, 1.73 m above the ground.

    Args:
        rng: Source of noise and of the order of the points.
        boxes: (n, 7): centre x, y and bottom z, length, width, height in metres, and yaw in radians.
        reach: x, y, x, y in metres: what lies outside is not seen. Rays go forward if it begins at x = 0, else around.
        beams: From 2 degrees above the horizon to 24.8 below, as Velodyne's HDL-64.
        rays: Of a beam.

    Returns:
        (N, 5) float32: x, y, z, reflectance in [0, 1] and 0 (the time lag of a sweep); in random order.
    """
    elevation = np.deg2rad(np.linspace(2, -24.8, beams))[:, None]
    azimuth = np.deg2rad(np.linspace(-45, 45, rays) if reach[0] >= 0 else np.linspace(-180, 180, rays, False))
    ray = np.stack(np.broadcast_arrays(np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                                       np.sin(elevation)), -1).reshape(-1, 3)
    with np.errstate(divide='ignore', invalid='ignore'):
        distance = np.where(ray[:, 2] < 0, -1.73 / ray[:, 2], np.inf)
        for wall in (reach[1] * 0.75, reach[3] * 0.75):
            t = wall / ray[:, 1]
            distance = np.where((t > 0) & (t * ray[:, 2] < 8), np.minimum(t, distance), distance)
        for x, y, z, length, width, height, yaw in boxes:
            turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
            half, start, towards = np.array([length, width, height]) / 2, -np.array([x, y, z + height / 2]), ray @ turn
            sides = (np.stack([-half, half])[:, None] - start @ turn) / towards  # (2, rays, 3)
            enter, leave = sides.min(0).max(1), sides.max(0).min(1)
            distance = np.where((enter < leave) & (enter > 0), np.minimum(enter, distance), distance)
    hit = np.isfinite(distance)
    points = ray[hit] * distance[hit, None]
    points = points[((points[:, :2] > reach[:2]) & (points[:, :2] < reach[2:])).all(1)]
    points += rng.normal(0, 0.02, points.shape)
    points = np.hstack([points, rng.random((len(points), 1)), np.zeros((len(points), 1))])
    return rng.permutation(points).astype(np.float32)


def room(rng: np.random.Generator, boxes: Array, count: int) -> tuple[Array, Array]:
    """Sample a room of 6 x 5 x 2.5 m around boxes on its floor.

    Args:
        rng: Source of the points.
        boxes: (n, 7): centre x, y and bottom z, sizes in metres, and yaw in radians.
        count: Number of points.

    Returns:
        Points (count, 6) float32: x, y, z in metres and colours from 0 to 255; and for each the number of its box, -1
        for floor and walls, (count,).
    """
    owner = rng.integers(-len(boxes) // 2 - 1, len(boxes), count).clip(-1)
    points = rng.uniform(-0.5, 0.5, (count, 3))
    face = rng.integers(0, 3, count)
    points[np.arange(count), face] = rng.choice([-0.5, 0.5], count)
    points[:, 2] += 0.5
    shell = np.array([6, 5, 2.5])
    outer = owner < 0
    points[outer & (face == 2), 2] = 0  # no ceiling
    points[outer] *= shell
    x, y, z, length, width, height, yaw = boxes[owner[~outer]].T
    inner = points[~outer] * np.stack([length, width, height], 1)
    points[~outer] = np.stack([inner[:, 0] * np.cos(yaw) - inner[:, 1] * np.sin(yaw) + x,
                               inner[:, 0] * np.sin(yaw) + inner[:, 1] * np.cos(yaw) + y, inner[:, 2] + z], 1)
    colours = np.vstack([rng.uniform(0, 255, (len(boxes), 3)), [[200, 190, 180]]])[owner]
    return np.hstack([points, colours + rng.normal(0, 10, (count, 3))]).astype(np.float32), owner
