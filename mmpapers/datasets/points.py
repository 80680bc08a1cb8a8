"""Point files, and what can be wrong with one."""

from pathlib import Path

import numpy as np


class PointFileError(ValueError):
    """A point file is not what it should be; the message names the file and what is wrong with it."""


def read_points(path: Path, dim: int) -> np.ndarray:
    """Read a file of float32 points.

    Args:
        path: Binary file without header, point by point.
        dim: Numbers per point, x, y and z first.

    Returns:
        Points (N, dim).

    Raises:
        PointFileError: If the file is missing, empty, does not hold whole points of ``dim`` numbers, or holds a number
            that is not finite.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PointFileError(f'{path} cannot be read ({error.strerror or error})') from error
    if size == 0:
        raise PointFileError(f'{path} holds no point')
    if size % (4 * dim):
        whole = [d for d in (3, 4, 5, 6, 7) if d != dim and size % (4 * d) == 0]
        hint = f', or its points have {" or ".join(map(str, whole))} numbers' if whole else ''
        raise PointFileError(f'{path} has {size} bytes, which is no multiple of {4 * dim} (points of {dim} float32): '
                             f'it is truncated{hint}')
    points = np.fromfile(path, np.float32).reshape(-1, dim)
    if not np.isfinite(points).all():
        bad = (~np.isfinite(points)).any(1)
        raise PointFileError(f'{path}: {bad.sum()} of {len(points)} points are NaN or infinite, the first is point '
                             f'{int(bad.argmax())}')
    return points


def in_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Find the points within an upright box.

    Args:
        points: (N, 3 or more) x, y, z first.
        box: (7,) x, y, z of the centre, length, width, height, yaw (counter-clockwise seen from +z).

    Returns:
        Their indices, ascending.
    """
    centre, (length, width, height, yaw) = np.asarray(box[:3], np.float64), box[3:7]
    near = np.abs(points[:, :3] - centre.astype(points.dtype)) <= max(np.hypot(length, width), height) / 2
    index = near.all(1).nonzero()[0]
    offset = points[index, :3] - centre
    along = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
    across = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
    return index[(np.abs(along) <= length / 2) & (np.abs(across) <= width / 2) & (np.abs(offset[:, 2]) <= height / 2)]
