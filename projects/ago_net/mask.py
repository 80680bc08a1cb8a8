"""Which cells of a bird's-eye view map belong to objects."""

from collections.abc import Sequence

import torch
from torch import Tensor

SHAPES = ('filled', 'outline')
_OUTLINE = 1.5  # half of 30 pixels of 0.1 m: human_mask in pcdet/datasets/nuscenes/nuscenes_dataset.py, released code


def signed_distance(boxes: Tensor, size: tuple[int, int], area: Sequence[float]) -> Tensor:
    """Distance of all cells' centres from the edges of footprints.

    Args:
        boxes: LiDAR boxes (N, 7 or more): x, y, z, length, width, height, yaw.
        size: Cells (H, W) along y and x.
        area: x, y, z of both corners of the map, metres.

    Returns:
        (N, H, W) in metres; negative inside.
    """
    (height, width), (left, low, _, right, high, _) = size, area
    x = left + (torch.arange(width, device=boxes.device, dtype=boxes.dtype) + 0.5) * ((right - left) / width)
    y = low + (torch.arange(height, device=boxes.device, dtype=boxes.dtype) + 0.5) * ((high - low) / height)
    cosine, sine = boxes[:, 6, None, None].cos(), boxes[:, 6, None, None].sin()
    x, y = x - boxes[:, 0, None, None], y[:, None] - boxes[:, 1, None, None]
    along = (cosine * x + sine * y).abs() - boxes[:, 3, None, None] / 2
    across = (cosine * y - sine * x).abs() - boxes[:, 4, None, None] / 2
    outside = torch.hypot(along.clamp(min=0), across.clamp(min=0))
    return outside + torch.maximum(along, across).clamp(max=0)


def foreground(boxes: Tensor, size: tuple[int, int], area: Sequence[float], shape: str = 'filled',
               margin: float | None = None) -> Tensor:
    """Rasterise footprints.

    Args:
        boxes: See :func:`signed_distance`.
        size: Cells (H, W).
        area: See :func:`signed_distance`.
        shape: ``'filled'``, or ``'outline'`` for a band along the edge.
        margin: Metres that the footprint is widened by, or half the width of the band. By default one cell's width, so
            that every object has a cell, or 1.5 m.

    Returns:
        Boolean (H, W).
    """
    if margin is None:
        cell = max((area[3] - area[0]) / size[1], (area[4] - area[1]) / size[0])
        margin = cell if shape == 'filled' else _OUTLINE
    distance = signed_distance(boxes, size, area)
    return ((distance.abs() if shape == 'outline' else distance) <= margin).any(0)
