"""Precise RoI pooling against a numeric integral; gradients by gradcheck and through mmcv's function."""

import numpy as np
import pytest
import torch
from mmcv import ops
from torch import Tensor

from mmpapers.ops import prroi_pool

pytestmark = pytest.mark.core


def make(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """RoIs inside, across the border, outside, thinner than a pixel and without area."""
    features = torch.randn(2, 2, 6, 7, dtype=dtype)
    rois = torch.tensor([[0, 3.1, 2.2, 9.7, 10.3], [1, -7.3, -5.1, 6.4, 7.9], [0, 8.4, 7.1, 30.2, 28.7],
                         [1, 90, 90, 99, 99], [0, 5.21, 4.1, 5.33, 9.4], [1, 4, 4, 4, 8]], dtype=dtype)
    return features, rois


class Pool(torch.autograd.Function):
    """mmcv's function without its restriction to float32."""

    @staticmethod
    def forward(ctx: object, features: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        out = features.new_zeros(len(rois), features.shape[1], *size)
        prroi_pool.prroi_pool_forward(features, rois, out, *size, scale)
        ctx.save_for_backward(features, rois, out)
        ctx.params = (*size, scale)
        return out

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple:
        features, rois, out = ctx.saved_tensors
        grads = torch.zeros_like(features), torch.zeros_like(rois)
        prroi_pool.prroi_pool_backward(grad.contiguous(), rois, grads[0], *ctx.params)
        prroi_pool.prroi_pool_coor_backward(out, grad.contiguous(), features, rois, grads[1], *ctx.params)
        return (*grads, None, None)


def surface(plane: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear surface at the points of a grid, zero outside."""
    rows, columns = (np.maximum(0, 1 - np.abs(t[:, None] - np.arange(n))) for t, n in zip((y, x), plane.shape))
    return rows @ plane @ columns.T


def test_it_is_the_integral_over_each_bin(path: str) -> None:
    features, rois = make()
    out = Pool.apply(features, rois, (2, 3), 0.5).numpy()
    fine = (np.arange(600) + 0.5) / 600
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * 0.5 for v in box)
        for p in range(2):
            for q in range(3):
                y, x = y1 + (y2 - y1) * (p + fine) / 2, x1 + (x2 - x1) * (q + fine) / 3
                for c in range(2):
                    mean = surface(features[int(image), c].numpy(), y, x).mean() if x2 > x1 else 0
                    assert out[r, c, p, q] == pytest.approx(mean, abs=1e-5)


def test_gradcheck_of_features_and_boxes(path: str) -> None:
    features, rois = make()
    kept, index = rois[:5, 1:].clone().requires_grad_(), rois[:5, :1]
    assert torch.autograd.gradcheck(lambda f, b: Pool.apply(f, torch.cat([index, b], 1), (2, 3), 0.5),
                                    (features.requires_grad_(), kept))


def test_a_roi_without_area_gives_zero_and_no_gradient(path: str) -> None:
    features, rois = make()
    leaf, boxes = features.requires_grad_(), rois[5:].clone().requires_grad_()
    out = Pool.apply(leaf, boxes, (2, 2), 0.5)
    out.sum().backward()
    assert not out.any() and not leaf.grad.any() and not boxes.grad.any()


def test_module_of_mmcv_trains_features_and_boxes() -> None:
    features, rois = make(torch.float32)
    leaf, boxes = features.requires_grad_(), rois.requires_grad_()
    out = ops.PrRoIPool((2, 3), 0.5)(leaf, boxes)
    torch.testing.assert_close(out.double(), Pool.apply(features.double(), rois.double(), (2, 3), 0.5), atol=1e-5,
                               rtol=1e-5)
    out.square().sum().backward()
    assert leaf.grad.abs().sum() > 0 and boxes.grad[:, 1:].abs().sum() > 0 and not boxes.grad[:, 0].any()
    assert ops.PrRoIPool((2, 3), 0.5)(leaf, boxes[:0]).shape == (0, 2, 2, 3)


def test_malformed_rois_are_named() -> None:
    features, rois = make()
    with pytest.raises(ValueError, match=r'prroi_pool: rois must be \(R, 5\).*\(6, 4\)'):
        Pool.apply(features, rois[:, 1:], (2, 2), 0.5)
    with pytest.raises(ValueError, match='prroi_pool: rois name the images 0 to 1, but the features hold 1'):
        Pool.apply(features[:1], rois, (2, 2), 0.5)
