"""Pooling of RoIs whose weight of a pixel is a product: one factor of its row, one of its column.

Average RoIAlign is of this kind, since the samples of a bin form a grid and bilinear weights are products, and so is
precise RoI pooling, the integral of a bilinear surface over a box. With the factors of bin (p, q) in ``wy[p]`` and
``wx[q]`` a channel of a RoI is ``wy @ feature @ wx.T``, which costs less than its samples one by one.
"""

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import accumulator, array, jit, parallel, widen

_FASTMATH = {'contract', 'reassoc'}
_CHUNK = 64  # RoIs at a time in the torch path; bounds its buffers


def pool(features: Tensor, image: Tensor, wy: Tensor, wx: Tensor) -> Tensor:
    """Pool every RoI from its image.

    Args:
        features: (N, C, H, W).
        image: (R,) int64, the image of each RoI.
        wy: (R, P, H) factors of the rows, float32 or float64.
        wx: (R, Q, W) factors of the columns.

    Returns:
        (R, C, P, Q), of the dtype of ``wy``.
    """
    out = wy.new_empty(len(wy), features.shape[1], wy.shape[1], wx.shape[1])
    features = features.detach().to(wy.dtype)
    if not _numba.native(features):
        return pool_torch(features, image, wy, wx, out)
    parallel(_pool_numba, features.shape[1], array(features), image.numpy(), *_ranges(wy), *_ranges(wx), out.numpy())
    return out


def unpool(grad: Tensor, image: Tensor, wy: Tensor, wx: Tensor, grad_features: Tensor) -> None:
    """Add the gradient of :func:`pool` with respect to its features to ``grad_features``, (N, C, H, W), in place.

    Args:
        grad: (R, C, P, Q), gradient of the pooled values.
        image: (R,) int64, the image of each RoI.
        wy: (R, P, H) factors of the rows.
        wx: (R, Q, W) factors of the columns.
        grad_features: Written in place, in its own dtype.
    """
    grad = grad.detach().to(wy.dtype)
    with accumulator(grad_features, wy.dtype) as total:
        if _numba.native(grad):
            parallel(_unpool_numba, grad.shape[1], array(grad), image.numpy(), *_ranges(wy), *_ranges(wx),
                     total.numpy())
        else:
            unpool_torch(grad, image, wy, wx, total)


def pool_torch(features: Tensor, image: Tensor, wy: Tensor, wx: Tensor, out: Tensor) -> Tensor:
    """:func:`pool` as matrix products, for any device; writes to ``out``."""
    with torch.autocast(out.device.type, enabled=False):
        for b, feature in enumerate(features):
            for rois in (image == b).nonzero()[:, 0].split(_CHUNK):
                rows = torch.einsum('rph,chw->rpcw', wy[rois], feature)
                out[rois] = torch.einsum('rpcw,rqw->rcpq', rows, wx[rois])
    return out


def unpool_torch(grad: Tensor, image: Tensor, wy: Tensor, wx: Tensor, total: Tensor) -> None:
    """:func:`unpool` as matrix products, for any device; adds to ``total``."""
    with torch.autocast(total.device.type, enabled=False):
        for b, feature in enumerate(total):
            for rois in (image == b).nonzero()[:, 0].split(_CHUNK):
                rows = torch.einsum('rcpq,rqw->rpcw', grad[rois], wx[rois])
                feature += torch.einsum('rpcw,rph->chw', rows, wy[rois])


def read_rois(op: str, rois: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Split RoIs into image and box.

    Args:
        op: Name of the op for the error.
        rois: (R, 5): index of the image, x1, y1, x2, y2.
        images: How many images there are.

    Returns:
        Image indices (R,) int64 and boxes (R, 4) in float32 or float64.

    Raises:
        ValueError: If the shape is another, a coordinate is NaN or infinite, or there is no such image.
    """
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f'{op}: rois must be (R, 5) = (image, x1, y1, x2, y2), but are {tuple(rois.shape)}; '
                         'mmdet.structures.bbox.bbox2roi makes them from one box tensor per image')
    rois = widen(rois)
    finite = rois.isfinite().all(1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise ValueError(f'{op}: RoI {bad} is {rois[bad].tolist()}, not finite: the network that predicted it has '
                         'diverged; lower the learning rate or set optim_wrapper.clip_grad')
    image = rois[:, 0].long()
    if len(rois) and (int(image.min()) < 0 or int(image.max()) >= images):
        raise ValueError(f'{op}: rois name the images {int(image.min())} to {int(image.max())}, but the features hold '
                         f'{images}: column 0 of rois is the index of the image in the batch')
    return image, rois[:, 1:]


def _ranges(weights: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (R, P, S) as an array, with the first and the end of the non-zero ones of each bin, (R, P)."""
    used = weights != 0
    size = used.shape[-1]
    first = used.int().argmax(-1)
    end = torch.where(used.any(-1), size - used.flip(-1).int().argmax(-1), first)
    return array(weights), first.numpy(), end.numpy()


@jit(fastmath=_FASTMATH)
def _pool_numba(start, stop, features, image, wy, y0, y1, wx, x0, x1, out):
    """Pool channels ``start`` to ``stop``: sum up the rows of a bin, then pick the columns of each bin."""
    rois, pooled_h, _ = wy.shape
    pooled_w, width = wx.shape[1:]
    rows = np.empty(width, features.dtype)
    for c in range(start, stop):
        for r in range(rois):
            feature = features[image[r], c]
            left, right = x0[r].min(), x1[r].max()
            for p in range(pooled_h):
                total = rows[left:right]
                total[:] = 0
                for y in range(y0[r, p], y1[r, p]):
                    weight = wy[r, p, y]
                    if weight == 0:
                        continue
                    line = feature[y, left:right]
                    for x in range(len(total)):
                        total[x] += weight * line[x]
                for q in range(pooled_w):
                    line = rows[x0[r, q]:x1[r, q]]
                    weights = wx[r, q, x0[r, q]:x1[r, q]]
                    value = features.dtype.type(0)
                    for x in range(len(line)):
                        value += weights[x] * line[x]
                    out[r, c, p, q] = value


@jit(fastmath=_FASTMATH)
def _unpool_numba(start, stop, grad, image, wy, y0, y1, wx, x0, x1, total):
    """Spread the gradient of channels ``start`` to ``stop``: over the columns of each bin, then over its rows."""
    rois, pooled_h, _ = wy.shape
    pooled_w, width = wx.shape[1:]
    rows = np.empty(width, grad.dtype)
    for c in range(start, stop):
        for r in range(rois):
            feature = total[image[r], c]
            left, right = x0[r].min(), x1[r].max()
            for p in range(pooled_h):
                rows[left:right] = 0
                for q in range(pooled_w):
                    value = grad[r, c, p, q]
                    line = rows[x0[r, q]:x1[r, q]]
                    weights = wx[r, q, x0[r, q]:x1[r, q]]
                    for x in range(len(line)):
                        line[x] += value * weights[x]
                source = rows[left:right]
                for y in range(y0[r, p], y1[r, p]):
                    weight = wy[r, p, y]
                    if weight == 0:
                        continue
                    line = feature[y, left:right]
                    for x in range(len(line)):
                        line[x] += weight * source[x]
