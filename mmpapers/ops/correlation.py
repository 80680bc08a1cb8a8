"""Correlation of two feature maps over shifts (FlowNet, Fischer et al., ICCV 2015), as in mmcv 2.1.0's CUDA kernels.

The product map of a shift, ``sum over channels of input1[y, x] * input2[y + dy, x + dx]`` with zeros outside, is summed
over the kernel's window: a convolution with ones.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ._numba import accumulator, widen


def correlation_forward(input1: Tensor, input2: Tensor, output: Tensor, kH: int, kW: int, patchH: int, patchW: int,
                        padH: int, padW: int, dilationH: int, dilationW: int, dilation_patchH: int,
                        dilation_patchW: int, dH: int, dW: int) -> None:
    """Correlate windows of one map with shifted windows of the other.

    Args:
        input1: (N, C, H, W).
        input2: (N, C, H, W).
        output: (N, patchH, patchW, outH, outW), written in place.
        kH: Rows of the window.
        kW: Columns of the window.
        patchH: Vertical shifts; their middle is no shift.
        patchW: Horizontal shifts.
        padH: Rows of zeros around ``input1``.
        padW: Columns of zeros.
        dilationH: Step between rows of the window.
        dilationW: Step between its columns.
        dilation_patchH: Step between vertical shifts.
        dilation_patchW: Step between horizontal shifts.
        dH: Step between windows, vertically.
        dW: Step between windows, horizontally.

    Raises:
        ValueError: If the two maps have different shapes.
    """
    if input1.shape != input2.shape:
        raise ValueError(f'correlation: the two maps must have one shape, not {tuple(input1.shape)} and '
                         f'{tuple(input2.shape)}')
    first, second = widen(input1), widen(input2)
    products = first.new_zeros(len(first), patchH, patchW, *first.shape[2:])
    for i, j, own, shifted in _shifts(first, second, patchH, patchW, dilation_patchH, dilation_patchW):
        products[:, i, j, own[0], own[1]] = (first[..., own[0], own[1]] * second[..., shifted[0], shifted[1]]).sum(1)
    sums = F.conv2d(products.flatten(0, 2)[:, None], products.new_ones(1, 1, kH, kW), None, (dH, dW), (padH, padW),
                    (dilationH, dilationW))
    output.copy_(sums.view_as(output))


def correlation_backward(grad_output: Tensor, input1: Tensor, input2: Tensor, grad_input1: Tensor, grad_input2: Tensor,
                         kH: int, kW: int, patchH: int, patchW: int, padH: int, padW: int, dilationH: int,
                         dilationW: int, dilation_patchH: int, dilation_patchW: int, dH: int, dW: int) -> None:
    """Add the gradients of both maps.

    Args:
        grad_output: (N, patchH, patchW, outH, outW).
        input1: (N, C, H, W).
        input2: (N, C, H, W).
        grad_input1: (N, C, H, W), added to in place.
        grad_input2: (N, C, H, W), added to in place.
        kH: As in :func:`correlation_forward`, like the rest.
        kW: Columns of the window.
        patchH: Vertical shifts.
        patchW: Horizontal shifts.
        padH: Rows of zeros.
        padW: Columns of zeros.
        dilationH: Step between rows of the window.
        dilationW: Step between its columns.
        dilation_patchH: Step between vertical shifts.
        dilation_patchW: Step between horizontal shifts.
        dH: Step between windows, vertically.
        dW: Step between windows, horizontally.
    """
    first, second, grad = widen(input1), widen(input2), widen(grad_output)
    sums = grad.to(first.dtype).flatten(0, 2)[:, None]
    spread = torch.nn.grad.conv2d_input((len(sums), 1, *first.shape[2:]), first.new_ones(1, 1, kH, kW), sums, (dH, dW),
                                        (padH, padW), (dilationH, dilationW))
    spread = spread.view(*grad.shape[:3], 1, *first.shape[2:])
    with accumulator(grad_input1, first.dtype) as to_first, accumulator(grad_input2, first.dtype) as to_second:
        for i, j, own, shifted in _shifts(first, second, patchH, patchW, dilation_patchH, dilation_patchW):
            product = spread[:, i, j, :, own[0], own[1]]  # (N, 1, h, w)
            to_first[..., own[0], own[1]] += product * second[..., shifted[0], shifted[1]]
            to_second[..., shifted[0], shifted[1]] += product * first[..., own[0], own[1]]


def _shifts(first: Tensor, second: Tensor, patch_h: int, patch_w: int, step_h: int,
            step_w: int) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Every shift that leaves an overlap: its two indices, and the overlap in either map."""
    height, width = first.shape[2:]
    for i in range(patch_h):
        dy = i * step_h - step_h * (patch_h - 1) // 2
        for j in range(patch_w):
            dx = j * step_w - step_w * (patch_w - 1) // 2
            if abs(dy) < height and abs(dx) < width:
                rows, columns = (slice(max(0, -d), size - max(0, d)) for d, size in ((dy, height), (dx, width)))
                yield (i, j, (rows, columns), (slice(rows.start + dy, rows.stop + dy),
                                               slice(columns.start + dx, columns.stop + dx)))
