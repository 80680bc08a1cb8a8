"""Cases of the op benchmark: suppression, RoI pooling, overlaps and focal loss at detection sizes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .benchmark_ops_conv import Case


def _boxes(n: int) -> tuple[Tensor, Tensor]:
    """Boxes up to 200 pixels large in an image of 800 x 800, with scores."""
    corner, size = torch.rand(n, 2) * 800, torch.rand(n, 2) * 200
    return torch.cat([corner, corner + size], 1), torch.rand(n)


def _nms(n: int) -> tuple[Callable, Sequence]:
    from mmcv.ops import nms
    return nms, (*_boxes(n), 0.5)


def _soft_nms(n: int, method: str) -> tuple[Callable, Sequence]:
    from mmcv.ops import soft_nms
    return soft_nms, (*_boxes(n), 0.3, 0.5, 1e-3, method)


def _nms_match(n: int) -> tuple[Callable, Sequence]:
    from mmcv.ops import nms_match
    boxes, scores = _boxes(n)
    return nms_match, (torch.cat([boxes, scores[:, None]], 1), 0.5)


def _rois(n: int, height: int, width: int) -> Tensor:
    """RoIs of all sizes in an image of (height, width)."""
    size = torch.rand(n, 2)**2 * torch.tensor([width, height])
    corner = torch.rand(n, 2) * (torch.tensor([width, height]) - size)
    return torch.cat([torch.randint(0, 2, (n, 1)).float(), corner, corner + size], 1)


def _roi_align(ratio: int, mode: str = 'avg', n: int = 512, height: int = 50, width: int = 76) -> tuple:
    from mmcv.ops import roi_align
    rois = _rois(n, height * 16, width * 16)
    return roi_align, (_map(height, width), rois, (7, 7), 1 / 16, ratio, mode, True)


def _roi_pool(pool: str) -> tuple[Callable, Sequence]:
    from mmcv import ops
    return getattr(ops, pool), (_map(50, 76), _rois(512, 800, 1216), (7, 7), 1 / 16)


def _map(height: int, width: int) -> Tensor:
    return torch.randn(2, 256, height, width, requires_grad=True)


def _overlaps(m: int, n: int) -> tuple[Callable, Sequence]:
    from mmcv.ops import bbox_overlaps
    return bbox_overlaps, (_boxes(m)[0], _boxes(n)[0])


def _focal(loss: str) -> tuple[Callable, Sequence]:
    from mmcv import ops
    return getattr(ops, loss), (torch.randn(20000, 80, requires_grad=True), torch.randint(0, 80, (20000,)), 2.0, 0.25)


CASES = [
    Case('nms', '1000 boxes', lambda: _nms(1000)),
    Case('nms', '5000 boxes', lambda: _nms(5000)),
    Case('nms', '20000 boxes', lambda: _nms(20000)),
    Case('soft_nms', '1000 boxes, linear', lambda: _soft_nms(1000, 'linear')),
    Case('soft_nms', '1000 boxes, Gaussian', lambda: _soft_nms(1000, 'gaussian')),
    Case('nms_match', '2000 boxes', lambda: _nms_match(2000)),
    Case('bbox_overlaps', '20000 x 50 boxes', lambda: _overlaps(20000, 50)),
    Case('roi_align', '512 RoIs, 2x256x50x76, adaptive', lambda: _roi_align(0)),
    Case('roi_align', '512 RoIs, 2x256x50x76, 2x2 samples', lambda: _roi_align(2)),
    Case('roi_align', '512 RoIs, 2x256x50x76, maximum', lambda: _roi_align(2, 'max')),
    Case('roi_align', '8 RoIs, 2x256x200x304, adaptive', lambda: _roi_align(0, n=8, height=200, width=304)),
    Case('roi_pool', '512 RoIs, 2x256x50x76', lambda: _roi_pool('roi_pool')),
    Case('prroi_pool', '512 RoIs, 2x256x50x76', lambda: _roi_pool('prroi_pool')),
    Case('sigmoid_focal_loss', '20000 x 80', lambda: _focal('sigmoid_focal_loss')),
    Case('softmax_focal_loss', '20000 x 80', lambda: _focal('softmax_focal_loss')),
]
