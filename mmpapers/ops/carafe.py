"""CARAFE (Wang et al., ICCV 2019): content-aware reassembly of features.

Each output pixel is a weighted sum of the k x k inputs around its source pixel. mmcv has two kernels with one result;
here both are the same small matrix products, a bounded number of rows at a time.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ._numba import widen

_CHUNK = 2 ** 24  # elements of unfolded features at a time


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor, rmasks: Tensor,
                   output: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> None:
    """Reassemble features.

    Args:
        features: (N, C, H, W).
        masks: (N, kernel_size^2 * group_size, s H, s W).
        rfeatures: (N, C, H, W), written for the backward; its layout is this module's own.
        routput, rmasks: Not used.
        output: (N, C, s H, s W), written.
        kernel_size: k, odd.
        group_size: Groups of channels that share a mask.
        scale_factor: s.

    Raises:
        ValueError: If the shapes do not fit.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(top_grad: Tensor, rfeatures: Tensor, masks: Tensor, rtop_grad: Tensor, rbottom_grad_hs: Tensor,
                    rbottom_grad: Tensor, rmask_grad: Tensor, bottom_grad: Tensor, mask_grad: Tensor, kernel_size: int,
                    group_size: int, scale_factor: int) -> None:
    """Gradients of :func:`carafe_forward`, added to ``bottom_grad`` and ``mask_grad``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int,
                         scale_factor: int) -> None:
    """Reassemble features; arguments as in :func:`carafe_forward`.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('carafe_forward', features, masks, output, kernel_size, group_size, scale_factor)
    padded, masks = F.pad(widen(features), [kernel_size // 2] * 4), widen(masks)
    for source, target in _chunks(features, kernel_size, scale_factor):
        output[:, :, target] = _reassemble(padded[:, :, source], masks[:, :, target], kernel_size, group_size,
                                           scale_factor).to(output.dtype)


def carafe_naive_backward(top_grad: Tensor, features: Tensor, masks: Tensor, bottom_grad: Tensor, mask_grad: Tensor,
                          kernel_size: int, group_size: int, scale_factor: int) -> None:
    """Gradients of :func:`carafe_naive_forward`, added to ``bottom_grad`` and ``mask_grad``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('carafe_backward', features, masks, top_grad, kernel_size, group_size, scale_factor)
    pad = kernel_size // 2
    padded, masks, top_grad = F.pad(widen(features), [pad] * 4), widen(masks), widen(top_grad)
    grad = torch.zeros_like(padded)
    for source, target in _chunks(features, kernel_size, scale_factor):
        leaves = [t.detach().requires_grad_() for t in (padded[:, :, source], masks[:, :, target])]
        with torch.enable_grad():
            out = _reassemble(*leaves, kernel_size, group_size, scale_factor)
        of_padded, of_masks = torch.autograd.grad(out, leaves, top_grad[:, :, target])
        grad[:, :, source] += of_padded
        mask_grad[:, :, target] += of_masks
    bottom_grad.add_(grad[:, :, pad:pad + features.shape[2], pad:pad + features.shape[3]])


def _chunks(features: Tensor, kernel: int, scale: int) -> Iterator[tuple[slice, slice]]:
    """Ranges of rows: of the padded features, and of the output."""
    height = features.shape[2]
    step = max(1, _CHUNK * height // max(1, features.numel() * kernel ** 2))
    for first in range(0, height, step):
        last = min(first + step, height)
        yield slice(first, last + kernel - 1), slice(first * scale, last * scale)


def _reassemble(padded: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Reassemble (N, C, h + k - 1, w + k - 1) with masks (N, G k^2, s h, s w) to (N, C, s h, s w); differentiable."""
    windows = padded.unfold(2, kernel, 1).unfold(3, kernel, 1).flatten(4)  # (N, C, h, w, k^2)
    windows = windows.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2, 5)  # (N, G, h, w, C / G, k^2)
    height, width = windows.shape[2:4]
    masks = masks.unflatten(3, (width, scale)).unflatten(2, (height, scale)).unflatten(1, (groups, kernel ** 2))
    masks = masks.permute(0, 1, 3, 5, 2, 4, 6).flatten(5)  # (N, G, h, w, k^2, s^2)
    out = (windows @ masks).unflatten(5, (scale, scale))  # (N, G, h, w, C / G, s, s)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(padded), padded.shape[1], height * scale, width * scale)


def _check(op: str, features: Tensor, masks: Tensor, output: Tensor, kernel: int, groups: int, scale: int) -> None:
    """Raise a ValueError that says which shape does not fit and what it must be."""
    n, channels, height, width = features.shape
    if kernel % 2 == 0 or channels % groups:
        raise ValueError(f'{op}: kernel_size={kernel} must be odd and group_size={groups} must divide the {channels} '
                         'channels')
    wanted = (n, kernel ** 2 * groups, height * scale, width * scale)
    if tuple(masks.shape) != wanted or tuple(output.shape) != (n, channels, *wanted[2:]):
        raise ValueError(f'{op}: for features {tuple(features.shape)}, kernel_size={kernel}, group_size={groups} and '
                         f'scale_factor={scale}, masks must be {wanted} and the output {(n, channels, *wanted[2:])}, '
                         f'but they are {tuple(masks.shape)} and {tuple(output.shape)}')
