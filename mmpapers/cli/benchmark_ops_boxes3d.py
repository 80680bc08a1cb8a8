"""Cases of the op benchmark: rotated and 3D overlaps and NMS, points in boxes, and pooling of rotated and 3D RoIs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .benchmark_ops_conv import Case


def _boxes(n: int, extent: float = 100) -> Tensor:
    """Boxes x, y, z, dx, dy, dz, heading about as large as cars, in a square that is ``extent`` metres wide."""
    size = torch.tensor([4., 1.8, 1.6]) * (0.7 + 0.6 * torch.rand(n, 3))
    place = torch.rand(n, 3) * torch.tensor([extent, extent, 1])
    return torch.cat([place, size, (torch.rand(n, 1) - 0.5) * 6.28], 1)


def _bev(n: int, extent: float = 100) -> Tensor:
    return _boxes(n, extent)[:, [0, 1, 3, 4, 6]]


def _iou_rotated(extent: float) -> tuple[Callable, Sequence]:
    from mmcv.ops import box_iou_rotated
    return box_iou_rotated, (_bev(1000, extent), _bev(1000, extent))


def _iou_quadri(n: int) -> tuple[Callable, Sequence]:
    from mmcv.ops import box_iou_quadri
    corners = torch.tensor([[-1., -1], [1, -1], [1, 1], [-1, 1]]) * 2
    quads = (torch.rand(2, n, 1, 2) * 30 + corners + torch.rand(2, n, 4, 2)).flatten(2)
    return box_iou_quadri, (quads[0], quads[1])


def _nms_rotated(n: int, extent: float) -> tuple[Callable, Sequence]:
    from mmcv.ops import nms_rotated
    return nms_rotated, (_bev(n, extent), torch.rand(n), 0.1)


def _nms_3d(name: str) -> tuple[Callable, Sequence]:
    from mmcv import ops
    return getattr(ops, name), (_boxes(4096), torch.rand(4096), 0.1)


def _iou_3d() -> tuple[Callable, Sequence]:
    from mmcv.ops import boxes_iou3d
    return boxes_iou3d, (_boxes(1000), _boxes(1000))


def _diff_iou() -> tuple[Callable, Sequence]:
    from mmcv.ops import diff_iou_rotated_3d
    boxes = _boxes(500)
    return diff_iou_rotated_3d, ((boxes + 0.2 * torch.randn(500, 7))[None].requires_grad_(), boxes[None])


def _points_in_boxes(name: str) -> tuple[Callable, Sequence]:
    from mmcv import ops
    return getattr(ops, name), (torch.rand(1, 20000, 3) * torch.tensor([70, 70, 3]), _boxes(40, 70)[None])


def _roiaware(mode: str) -> tuple[Callable, Sequence]:
    from mmcv.ops import RoIAwarePool3d
    boxes, points = _boxes(128, 40), torch.rand(20000, 3) * torch.tensor([40, 40, 3])
    return RoIAwarePool3d(14, 128, mode), (boxes, points, torch.randn(20000, 16, requires_grad=True))


def _roipoint() -> tuple[Callable, Sequence]:
    from mmcv.ops import RoIPointPool3d
    points = torch.rand(1, 16384, 3) * torch.tensor([40, 40, 3])
    return RoIPointPool3d(512), (points, torch.randn(1, 16384, 128), _boxes(100, 40)[None])


def _roi_align_rotated(ratio: int) -> tuple[Callable, Sequence]:
    from mmcv.ops import roi_align_rotated
    size = torch.rand(512, 2)**2 * torch.tensor([1216, 800])
    rois = torch.cat([torch.randint(0, 2, (512, 1)), torch.rand(512, 2) * torch.tensor([1216, 800]), size,
                      torch.rand(512, 1) * 3], 1)
    return roi_align_rotated, (torch.randn(2, 256, 50, 76, requires_grad=True), rois, (7, 7), 1 / 16, ratio)


CASES = [
    Case('box_iou_rotated', '1000 x 1000 cars in 100 m', lambda: _iou_rotated(100)),
    Case('box_iou_rotated', '1000 x 1000 cars in 10 m', lambda: _iou_rotated(10)),
    Case('box_iou_quadri', '300 x 300', lambda: _iou_quadri(300)),
    Case('nms_rotated', '1000 boxes in 50 m', lambda: _nms_rotated(1000, 50)),
    Case('nms_rotated', '4096 boxes in 100 m', lambda: _nms_rotated(4096, 100)),
    Case('boxes_iou3d', '1000 x 1000 cars in 100 m', _iou_3d),
    Case('nms3d', '4096 boxes in 100 m', lambda: _nms_3d('nms3d')),
    Case('nms3d_normal', '4096 boxes in 100 m', lambda: _nms_3d('nms3d_normal')),
    Case('diff_iou_rotated_3d', '500 pairs', _diff_iou),
    Case('points_in_boxes_cpu', '20000 points, 40 boxes', lambda: _points_in_boxes('points_in_boxes_cpu')),
    Case('points_in_boxes_all', '20000 points, 40 boxes', lambda: _points_in_boxes('points_in_boxes_all')),
    Case('points_in_boxes_part', '20000 points, 40 boxes', lambda: _points_in_boxes('points_in_boxes_part')),
    Case('roiaware_pool3d', '128 RoIs of 14^3, 20000 points, 16 channels, maximum', lambda: _roiaware('max')),
    Case('roiaware_pool3d', '128 RoIs of 14^3, 20000 points, 16 channels, average', lambda: _roiaware('avg')),
    Case('roipoint_pool3d', '100 RoIs, 16384 points, 128 channels', _roipoint),
    Case('roi_align_rotated', '512 RoIs, 2x256x50x76, adaptive', lambda: _roi_align_rotated(0)),
    Case('roi_align_rotated', '512 RoIs, 2x256x50x76, 2x2 samples', lambda: _roi_align_rotated(2)),
]
