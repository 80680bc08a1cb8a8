"""Boundaries seen from the cells of a bird's-eye map: distances to the sides of a box, and where nine taps fall.

Frames: x ahead, y left, metres; a map is (H, W) with rows along y and columns along x. Yaw turns from x to y. A
boundary has no front: its axis is the yaw modulo pi, in [-pi / 2n, pi - pi / 2n) for n bins, so that bin k is centred
at k pi / n and objects along the axes of the map lie in the middle of a bin.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class BEVGrid(NamedTuple):
    """Cells of a bird's-eye map.

    Args:
        origin: x and y of the outer corner of cell (0, 0), metres.
        cell: Size of a cell along x and y, metres.
        size: Rows H (along y) and columns W (along x).
    """
    origin: tuple[float, float]
    cell: tuple[float, float]
    size: tuple[int, int]

    def centres(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the cells' centres, x (W,) and y (H,), of the type and device of ``like``."""
        return tuple((torch.arange(n, dtype=like.dtype, device=like.device) + .5) * cell + start
                     for start, cell, n in zip(self.origin, self.cell, self.size[::-1]))


def make_grid(point_cloud_range: Sequence[float], voxel_size: Sequence[float], stride: float) -> BEVGrid:
    """Derive the cells of a map from what a config says about voxels.

    Args:
        point_cloud_range: x, y, z of the lower and the upper corner, metres.
        voxel_size: x, y (and z) of a voxel, metres.
        stride: Voxels per cell.

    Raises:
        ValueError: If the range is not a whole number of cells.
    """
    if len(point_cloud_range) != 6 or len(voxel_size) < 2 or min(*voxel_size[:2], stride) <= 0:
        raise ValueError('proposal.point_cloud_range needs six numbers, proposal.voxel_size two or three positive '
                         f'ones and proposal.stride a positive one, but they are {list(point_cloud_range)}, '
                         f'{list(voxel_size)} and {stride}')
    low, high = point_cloud_range[:2], point_cloud_range[3:5]
    cell = (voxel_size[0] * stride, voxel_size[1] * stride)
    counts = [(b - a) / c for a, b, c in zip(low, high, cell)]
    if any(n < .5 or abs(n - round(n)) > 1e-3 for n in counts):
        raise ValueError(f'proposal.point_cloud_range={list(point_cloud_range)} is {counts[0]:.2f} x {counts[1]:.2f} '
                         f'cells of {cell[0]:g} x {cell[1]:g} m (proposal.voxel_size times proposal.stride); it must '
                         'be a whole number of cells')
    return BEVGrid((low[0], low[1]), cell, (round(counts[1]), round(counts[0])))


def encode_angle(yaw: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split yaw into the boundary's axis, its bin and the residual.

    Args:
        yaw: Any shape, radians.
        num_bins: Number n of bins.

    Returns:
        Axis in radians; bin, int64; residual in half bins, in [-1, 1]. All of yaw's shape.
    """
    half = math.pi / num_bins / 2
    axis = torch.remainder(yaw + half, math.pi) - half
    index = torch.floor((axis + half) / (2 * half)).long().clamp(0, num_bins - 1)
    return axis, index, axis / half - 2 * index


def decode_angle(index: Tensor, residual: Tensor, num_bins: int) -> Tensor:
    """Turn bins and residuals in half bins into radians; the inverse of :func:`encode_angle`."""
    return (2 * index + residual) * (math.pi / num_bins / 2)


def local_coordinates(grid: BEVGrid, centres: Tensor, axis: Tensor) -> Tensor:
    """Express the centre of every cell in the frames of boxes.

    Args:
        grid: The map.
        centres: x and y of the boxes' centres (N, 2), metres.
        axis: (N,) direction of the frames' first axis, radians.

    Returns:
        (2, N, H, W): along the axis and across it, metres.
    """
    x, y = grid.centres(centres)
    x = x[None, None, :] - centres[:, 0, None, None]
    y = y[None, :, None] - centres[:, 1, None, None]
    cos, sin = axis.cos()[:, None, None], axis.sin()[:, None, None]
    return torch.stack([cos * x + sin * y, cos * y - sin * x])


def boundary_distances(local: Tensor, size: Tensor) -> Tensor:
    """Measure the distances from points inside boxes to their sides.

    Args:
        local: (2, ...) coordinates along and across the boxes, metres.
        size: (2, ...) length and width, metres.

    Returns:
        (4, ...) left and right (backwards and forwards along the length), top and bottom (to the left and right across
        the width), metres; negative on the other side of a side.
    """
    along, across = local
    length, width = size / 2
    return torch.stack([along + length, length - along, width - across, across + width])


def sampling_positions(distances: Tensor, axis: Tensor) -> Tensor:
    """Place the taps of a 3x3 kernel on the predicted boundaries: four corners, four middles of sides, the centre.

    Args:
        distances: (B, 4, H, W) left, right, top, bottom, metres.
        axis: (B, H, W), radians.

    Returns:
        (B, 3, 3, 2, H, W): for the kernel's rows (across the box, right to left) and columns (along it, back to front)
        the x and y of the tap relative to the cell's centre, metres.
    """
    left, right, top, bottom = distances.unbind(1)
    along = torch.stack([-left, (right - left) / 2, right], 1)[:, None]
    across = torch.stack([-bottom, (top - bottom) / 2, top], 1)[:, :, None]
    cos, sin = axis.cos()[:, None, None], axis.sin()[:, None, None]
    return torch.stack([cos * along - sin * across, sin * along + cos * across], 3)


def regular_positions(grid: BEVGrid, like: Tensor) -> Tensor:
    """What :func:`sampling_positions` gives for an ordinary 3x3 kernel, (1, 3, 3, 2, 1, 1)."""
    step = torch.arange(-1., 2., dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(step * grid.cell[1], step * grid.cell[0], indexing='ij')
    return torch.stack([x, y], -1)[None, ..., None, None]


def deform_offsets(positions: Tensor, grid: BEVGrid) -> Tensor:
    """Turn positions of taps into what mmcv's deformable convolution reads.

    Args:
        positions: (B, 3, 3, 2, H, W), see :func:`sampling_positions`.
        grid: The map.

    Returns:
        (B, 18, H, W): y and x of each tap relative to its regular place, in cells, row by row.
    """
    cell = positions.new_tensor(grid.cell)[:, None, None]
    return ((positions - regular_positions(grid, positions)) / cell).flip(3).flatten(1, 3)
