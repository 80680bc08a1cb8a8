"""IoU and GIoU of 3D boxes, upright, turned or along the axes, for any shapes that broadcast."""

import torch
from mmcv.ops import box_iou_rotated, diff_iou_rotated_2d
from torch import Tensor

_SMALLEST = 1e-8  # volume; what is smaller overlaps nothing


def overlaps3d(a: Tensor, b: Tensor, giou: bool = False, rotated: bool = False) -> Tensor:
    """Compare boxes that broadcast: ``overlaps3d(a[:, None], b)`` compares every one with every other.

    The enclosing volume of turned boxes is that of the box along the axes around both, as in 3DETR.

    Args:
        a: (..., 7), centre x, y, z, sizes and yaw in radians, counter-clockwise.
        b: (..., 7).
        giou: Generalized IoU in [-1, 1] instead of IoU in [0, 1].
        rotated: Whether yaw counts; without, it is taken as 0.

    Returns:
        (...), differentiable.
    """
    a, b = torch.broadcast_tensors(a, b)
    a_half, b_half = a[..., 3:6] / 2, b[..., 3:6] / 2
    shared = _extent(a, b, a_half, b_half)
    volumes = a[..., 3:6].prod(-1), b[..., 3:6].prod(-1)
    area = _shared_area(a, b) if rotated else shared[..., 0] * shared[..., 1]
    inside = area * shared[..., 2]
    union = (volumes[0] + volumes[1] - inside).clamp(min=_SMALLEST)
    iou = inside / union
    if not giou:
        return iou
    if rotated:
        a_half, b_half = _half_extents(a), _half_extents(b)
    around = _extent(a, b, a_half, b_half, around=True).prod(-1).clamp(min=_SMALLEST)
    return iou - (1 - union / around)


def _extent(a: Tensor, b: Tensor, a_half: Tensor, b_half: Tensor, around: bool = False) -> Tensor:
    """Sizes (..., 3) of the box that both share, or of the one around both."""
    low, high = (torch.minimum, torch.maximum) if around else (torch.maximum, torch.minimum)
    size = high(a[..., :3] + a_half, b[..., :3] + b_half) - low(a[..., :3] - a_half, b[..., :3] - b_half)
    return size.clamp(min=0)


def _half_extents(boxes: Tensor) -> Tensor:
    """Half of the sizes (..., 3) of the box along the axes around each turned one."""
    cos, sin = boxes[..., 6].cos().abs(), boxes[..., 6].sin().abs()
    x, y, z = (boxes[..., 3:6] / 2).unbind(-1)
    return torch.stack([x * cos + y * sin, x * sin + y * cos, z], -1)


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Area (...) that two turned rectangles share, seen from above."""
    shape = a.shape[:-1]
    if not shape.numel():
        return a.new_zeros(shape)
    a, b = (box[..., [0, 1, 3, 4, 6]].reshape(-1, 5) for box in (a, b))
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        iou = diff_iou_rotated_2d(a[None], b[None])[0]
    else:
        iou = box_iou_rotated(a, b, aligned=True)
    both = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3]
    return (iou / (1 + iou) * both).view(shape)
