"""Sparse convolution and max pooling over the pairs of :mod:`.sparse_conv_pairs`, as in mmcv 2.1.0.

One product per offset of the kernel: rows are gathered, multiplied, and added where they belong.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import _numba
from ._numba import jit, parallel, widen


def indice_conv_forward(features: Tensor, filters: Tensor, indicePairs: Tensor, indiceNum: Tensor, numActOut: int,
                        _inverse: int, _subM: int) -> Tensor:
    """Convolve.

    Args:
        features: (N, C).
        filters: (*kernel, C, F); the kernel has K taps.
        indicePairs: (K, 2, L) int32 rows of inputs and outputs; the first ``indiceNum`` of each tap count.
        indiceNum: (K,) int32.
        numActOut: M, number of outputs.
        _inverse: Whether the pairs are those of the convolution that is undone: outputs first.
        _subM: Whether outputs are inputs; the tap with most pairs is then the centre.

    Returns:
        (M, F), like ``features`` in type.
    """
    return fused_indice_conv_forward(features, filters, None, indicePairs, indiceNum, numActOut, _inverse, _subM)


def fused_indice_conv_forward(features: Tensor, filters: Tensor, bias: Tensor | None, indicePairs: Tensor,
                              indiceNum: Tensor, numActOut: int, _inverse: int, _subM: int) -> Tensor:
    """Convolve and add a bias (which mmcv's kernel forgets in submanifold convolution).

    Args:
        features: As in :func:`indice_conv_forward`, like the other arguments.
        filters: (*kernel, C, F).
        bias: (F,), or None.
        indicePairs: (K, 2, L).
        indiceNum: (K,).
        numActOut: M.
        _inverse: Whether outputs come first in the pairs.
        _subM: Whether outputs are inputs.

    Returns:
        (M, F).
    """
    x, taps = _operands(features, filters)
    out = x.new_zeros(numActOut, taps.shape[2])
    if bias is not None:
        out += widen(bias)
    centre, groups = _groups(indicePairs, indiceNum, _inverse, _subM)
    if centre is not None:
        out.addmm_(x, taps[centre])
    rows, products = _buffers(x, groups, x.shape[1], out.shape[1])
    for tap, inputs, outputs in groups:
        n = len(inputs)
        torch.index_select(x, 0, inputs, out=rows[:n])
        torch.mm(rows[:n], taps[tap], out=products[:n])
        _add_rows(out, outputs, products[:n])
    return out.to(features.dtype)


def indice_conv_backward(features: Tensor, filters: Tensor, outGrad: Tensor, indicePairs: Tensor, indiceNum: Tensor,
                         _inverse: int, _subM: int) -> list[Tensor]:
    """Differentiate :func:`indice_conv_forward`.

    Args:
        features: (N, C).
        filters: (*kernel, C, F).
        outGrad: (M, F).
        indicePairs: (K, 2, L).
        indiceNum: (K,).
        _inverse: Whether outputs come first in the pairs.
        _subM: Whether outputs are inputs.

    Returns:
        Gradients of the features and of the filters.
    """
    x, taps = _operands(features, filters)
    grad = outGrad.detach().to(x.dtype).contiguous()
    grad_x, grad_taps = torch.zeros_like(x), torch.zeros_like(taps)
    centre, groups = _groups(indicePairs, indiceNum, _inverse, _subM)
    if centre is not None:
        torch.mm(x.t(), grad, out=grad_taps[centre])
        torch.mm(grad, taps[centre].t(), out=grad_x)
    rows, grad_rows = _buffers(x, groups, x.shape[1], grad.shape[1])
    for tap, inputs, outputs in groups:
        n = len(inputs)
        torch.index_select(x, 0, inputs, out=rows[:n])
        torch.index_select(grad, 0, outputs, out=grad_rows[:n])
        torch.mm(rows[:n].t(), grad_rows[:n], out=grad_taps[tap])
        torch.mm(grad_rows[:n], taps[tap].t(), out=rows[:n])
        _add_rows(grad_x, inputs, rows[:n])
    return [grad_x.to(features.dtype), grad_taps.view(filters.shape).to(filters.dtype)]


def indice_maxpool_forward(features: Tensor, indicePairs: Tensor, indiceNum: Tensor, numAct: int) -> Tensor:
    """Take the maximum over the inputs of each output, and 0 where all are negative, as mmcv does.

    Args:
        features: (N, C). NaN never wins.
        indicePairs: (K, 2, L).
        indiceNum: (K,).
        numAct: M.

    Returns:
        (M, C).
    """
    x = widen(features)
    out = x.new_zeros(numAct, x.shape[1])
    for _, inputs, outputs in _groups(indicePairs, indiceNum)[1]:
        best, rows = out[outputs.long()], x[inputs.long()]
        out[outputs.long()] = torch.where(rows > best, rows, best)
    return out.to(features.dtype)


def indice_maxpool_backward(features: Tensor, outFeatures: Tensor, outGrad: Tensor, indicePairs: Tensor,
                            indiceNum: Tensor) -> Tensor:
    """Differentiate :func:`indice_maxpool_forward`; every input that equals the maximum takes the whole gradient.

    Args:
        features: (N, C).
        outFeatures: (M, C), as returned by the forward pass.
        outGrad: (M, C).
        indicePairs: (K, 2, L).
        indiceNum: (K,).

    Returns:
        (N, C).
    """
    x, best, grad = widen(features), widen(outFeatures), widen(outGrad)
    grad_x = torch.zeros_like(x)
    for _, inputs, outputs in _groups(indicePairs, indiceNum)[1]:
        _add_rows(grad_x, inputs, grad[outputs.long()] * (x[inputs.long()] == best[outputs.long()]))
    return grad_x.to(features.dtype)


def _operands(features: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, C) and taps (K, C, F), of one type, float32 at least."""
    if features.shape[1] != filters.shape[-2]:
        raise ValueError(f'sparse convolution: features have {features.shape[1]} channels, but the layer takes '
                         f'{filters.shape[-2]}; check in_channels')
    x = widen(features).contiguous()
    return x, filters.detach().to(x.dtype).reshape(-1, *filters.shape[-2:])


def _groups(pairs: Tensor, number: Tensor, inverse: int = 0,
            submanifold: int = 0) -> tuple[int | None, list[tuple[int, Tensor, Tensor]]]:
    """The tap that maps every voxel to itself, if there is one, and (tap, input rows, output rows) of the others."""
    numbers = number.tolist()
    centre = int(np.argmax(numbers)) if submanifold else None
    first = int(inverse)
    return centre, [(tap, pairs[tap, first, :n], pairs[tap, 1 - first, :n]) for tap, n in enumerate(numbers)
                    if n > 0 and tap != centre]


def _buffers(like: Tensor, groups: list, *widths: int) -> Iterator[Tensor]:
    """Space for the rows of the largest group."""
    largest = max((len(inputs) for _, inputs, _ in groups), default=0)
    return (like.new_empty(largest, width) for width in widths)


def _add_rows(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values to rows of a contiguous target."""
    if _numba.native(target):
        parallel(_add_rows_numba, len(target), rows.numpy(), values.numpy(), target.numpy(), grain=4096)
    else:
        target.index_add_(0, rows, values)


@jit
def _add_rows_numba(start, stop, rows, values, target):
    """Add the values whose rows lie between ``start`` and ``stop``."""
    for i in range(len(rows)):
        if start <= rows[i] < stop:
            row = target[rows[i]]
            for c in range(len(row)):
                row[c] += values[i, c]
