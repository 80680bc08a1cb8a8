"""Order of the corners of an intersection, for mmcv's differentiable rotated IoU (Zhou et al., 3DV 2019).

Corner cases of mmcv 2.1.0's CUDA kernel are mended: it never selects a corner exactly level with the centre, writes
past the polygon when more than eight points are valid, and takes crossings of nearly parallel sides, which mmcv's
formula puts anywhere, so that the IoU of nearly equal boxes could be any number.
"""

import math

import torch
from torch import Tensor

from ._numba import widen

_CORNERS = 8  # vertices that are corners of the boxes; the crossings behind them are 0 where they are not valid
_LENGTH = 9


def diff_iou_rotated_sort_vertices_forward(vertices: Tensor, mask: Tensor, num_valid: Tensor) -> Tensor:
    """Order the valid vertices of each polygon counterclockwise, from the x axis on.

    Args:
        vertices: (B, N, 24, 2), 8 corners and 16 crossings relative to their mean.
        mask: (B, N, 24) bool, which are valid.
        num_valid: (B, N), how many are.

    Returns:
        (B, N, 9) int32: indices of the vertices, of those that coincide the first; then the first again, then an
        invalid crossing as padding. Only padding where fewer than three are left.
    """
    points, mask = widen(vertices), mask.bool()
    used = _meant(points, mask)
    centre = torch.where(used[..., None], points, 0).sum(-2, keepdim=True) / used.sum(-1)[..., None, None].clamp(min=1)
    points = points - centre
    angle = torch.atan2(points[..., 1], points[..., 0]) % (2 * math.pi)
    order = torch.where(used, angle, math.inf).argsort(dim=-1, stable=True)
    used = used.gather(-1, order)
    points = points.gather(-2, order[..., None].expand_as(points))
    # Coinciding points have coinciding neighbours in this order. A closed polygon of two rectangles has eight corners
    # at most, so what is more coincides too, in all but rounding.
    previous = points.roll(1, -2)
    end = (used.sum(-1, keepdim=True) - 1).clamp(min=0)
    last = points.gather(-2, end[..., None].expand(*end.shape, 2))
    step = (points - previous).abs().amax(-1)
    step[..., 0] = math.inf
    closing = (points[..., :1, :] - last).abs().amax(-1)
    step = torch.where((torch.arange(step.shape[-1], device=step.device) == end) & (end > 0),
                       torch.minimum(step, closing), step)
    least = torch.where(used, points.abs().amax(-1), 0).amax(-1, keepdim=True) * 1e-6
    while True:
        kept = used & (step > least)
        count = kept.sum(-1, keepdim=True)
        if not bool((count >= _LENGTH).any()):
            break
        least = torch.where(count >= _LENGTH, least * 10, least)
    spare = (~mask[..., _CORNERS:]).to(torch.uint8).argmax(-1, keepdim=True) + _CORNERS
    place = torch.where(kept & (count > 2), kept.cumsum(-1) - 1, _LENGTH)
    result = spare.repeat(*[1] * (spare.ndim - 1), _LENGTH + 1).scatter_(-1, place, order)
    first = torch.where(count > 2, result[..., :1], spare)
    return result.scatter_(-1, count, first)[..., :_LENGTH].to(torch.int32)


def _meant(points: Tensor, mask: Tensor) -> Tensor:
    """Which valid vertices bound the intersection: corners of a box inside the other, or all but stray crossings."""
    boxes = points[..., :_CORNERS, :].unflatten(-2, (2, 4))
    low, high = boxes.amin(-2).amax(-2, keepdim=True), boxes.amax(-2).amin(-2, keepdim=True)
    slack = 1e-5 * (boxes.amax((-2, -3)) - boxes.amin((-2, -3)))[..., None, :]
    kept = mask & ((points >= low - slack) & (points <= high + slack)).all(-1)
    inside = mask[..., :_CORNERS].unflatten(-1, (2, 4)).all(-1, keepdim=True)
    first, second = (inside[..., k, :] for k in (0, 1))
    slot = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(first, slot < 4, torch.where(second, (slot >= 4) & (slot < _CORNERS), kept))
