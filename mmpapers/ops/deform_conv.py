"""Deformable convolution (Dai et al., ICCV 2017) and its modulated form (Zhu et al., CVPR 2019).

Sampled columns times the weight, a bounded number of points at a time, so memory does not grow with the images.
``columns`` and ``ones`` are buffers of mmcv's kernels that these functions do not need; ``im2col_step`` must divide the
batch, as in mmcv, and changes nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import _deform_cols as cols
from ._numba import widen


class _Geometry(NamedTuple):
    """Kernel, stride, padding and dilation as (y, x), and the numbers of groups of channels and of offsets."""
    op: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


class _Conv:
    """One batch of points to sample and the products with the weight.

    Args:
        geometry: Of the convolution.
        x: (B, C, H, W).
        weight: (O, C / groups, kH, kW).
        offset: (B, 2 * deform_groups * kH * kW, Ho, Wo), y and x by turns.
        mask: (B, deform_groups * kH * kW, Ho, Wo); None for factors of 1.
        output: (B, O, Ho, Wo) result or its gradient; only its shape is looked at.

    Raises:
        ValueError: If the shapes do not fit.
    """

    def __init__(self, geometry: _Geometry, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None,
                 output: Tensor) -> None:
        _check(geometry, x, weight, offset, mask, output)
        x, offset, weight = widen(x), widen(offset), widen(weight)
        self.geometry, self.size, self.out_size = geometry, tuple(x.shape[2:]), tuple(output.shape[2:])
        batch, channels = x.shape[:2]
        self.taps = geometry.kernel[0] * geometry.kernel[1]
        self.rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        groups, per_image = geometry.deform_groups, self.out_size[0] * self.out_size[1]
        offset = offset.reshape(batch, groups, self.taps, 2, per_image).permute(0, 4, 1, 2, 3)
        self.points = (offset + self._grid(offset)).reshape(-1, *offset.shape[2:])
        if mask is None:
            self.mask = torch.ones_like(self.points[..., 0])
        else:
            mask = widen(mask).reshape(batch, groups, self.taps, per_image)
            self.mask = mask.permute(0, 3, 1, 2).reshape(self.points.shape[:3])
        self.image = torch.arange(batch, device=x.device).repeat_interleave(per_image)
        # (groups, outputs of a group, kernel taps * channels of a group)
        self.weight = weight.flatten(2).transpose(1, 2).reshape(geometry.groups, len(weight) // geometry.groups, -1)

    def _grid(self, like: Tensor) -> Tensor:
        """Points (Ho * Wo, 1, K, 2) of the undeformed convolution."""
        _, kernel, stride, padding, dilation, *_ = self.geometry
        y, x = (torch.arange(n, device=like.device)[:, None] * s - p + torch.arange(k, device=like.device) * d
                for n, k, s, p, d in zip(self.out_size, kernel, stride, padding, dilation))
        grid = torch.stack(torch.broadcast_tensors(y[:, None, :, None], x[None, :, None, :]), -1)
        return grid.reshape(-1, 1, self.taps, 2).to(like.dtype)

    def chunks(self) -> Iterator[slice]:
        """Ranges of points whose columns fit a core's cache, or a small part of an accelerator's memory."""
        budget = 2 ** 20 if self.rows.device.type == 'cpu' else 2 ** 26
        step = max(64, budget // max(1, self.taps * self.rows.shape[1]))
        return (slice(i, i + step) for i in range(0, len(self.points), step))

    def grouped(self, columns: Tensor) -> Tensor:
        """Turn columns (n, K, C) into (groups, n, K * C / groups)."""
        return columns.view(*columns.shape[:2], self.geometry.groups, -1).permute(2, 0, 1, 3).flatten(2)

    def forward(self) -> Tensor:
        """The output (B, O, Ho, Wo) without bias."""
        out = self.rows.new_empty(len(self.points), self.weight.shape[0] * self.weight.shape[1])
        for part in self.chunks():
            product = self.grouped(cols.im2col(*self.sample(part))) @ self.weight.transpose(1, 2)
            out[part] = product.transpose(0, 1).flatten(1)
        return self._maps(out, self.out_size)

    def sample(self, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]:
        """What :func:`._deform_cols.im2col` takes for a range of points."""
        return self.rows, self.points[part], self.mask[part], self.image[part], self.size

    def backward(self, grad_out: Tensor, inputs: bool, parameters: bool) -> tuple[Tensor | None, ...]:
        """Gradients for the output's gradient (B, O, Ho, Wo).

        Args:
            grad_out: Gradient of the output.
            inputs: Whether those of input, offset and mask are wanted.
            parameters: Whether that of the weight is wanted.

        Returns:
            Gradients of input, offset, mask and weight, in the shapes of these; None where not wanted.
        """
        groups, outputs, _ = self.weight.shape
        grad_out = widen(grad_out).permute(0, 2, 3, 1).reshape(len(self.points), groups, outputs)
        grad_rows, grad_points = torch.zeros_like(self.rows), torch.zeros_like(self.points)
        grad_mask, grad_weight = torch.zeros_like(self.mask), torch.zeros_like(self.weight)
        for part in self.chunks():
            grad = grad_out[part].transpose(0, 1)
            if inputs:
                grad_columns = (grad @ self.weight).view(*grad.shape[:2], self.taps, -1)
                grad_columns = grad_columns.permute(1, 2, 0, 3).flatten(2)
                columns, grad_points[part], grad_mask[part] = cols.col2im(
                    *self.sample(part), grad_columns, grad_rows)
            else:
                columns = cols.im2col(*self.sample(part))
            if parameters:
                grad_weight += grad.transpose(1, 2) @ self.grouped(columns)
        results = [None] * 4
        if inputs:
            results[:3] = (self._maps(grad_rows, self.size), self._maps(grad_points, self.out_size),
                           self._maps(grad_mask, self.out_size))
        if parameters:
            grad_weight = grad_weight.view(groups * outputs, self.taps, -1).transpose(1, 2)
            results[3] = grad_weight.unflatten(2, self.geometry.kernel)
        return tuple(results)

    def _maps(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn rows (B * h * w, ...) into (B, D, h, w)."""
        rows = rows.flatten(1)
        return rows.view(len(self.rows) // (self.size[0] * self.size[1]), *size, rows.shape[1]).permute(0, 3, 1, 2)


def _check(geometry: _Geometry, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None,
           output: Tensor) -> None:
    """Raise a ValueError that says which shape does not fit and what it must be."""
    op, kernel, stride, padding, dilation, groups, deform_groups = geometry
    if x.dim() != 4 or tuple(weight.shape[2:]) != kernel:
        raise ValueError(f'{op}: input must be (B, C, H, W) and weight (O, C / groups, {kernel[0]}, {kernel[1]}), but '
                         f'they are {tuple(x.shape)} and {tuple(weight.shape)}')
    if min(*stride, *dilation) < 1:
        raise ValueError(f'{op}: stride and dilation must be at least 1, but are {stride} and {dilation}')
    if x.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        raise ValueError(f'{op}: an input of {x.shape[1]} channels does not fit a weight of {tuple(weight.shape)} with '
                         f'groups={groups}; the weight must be (O, {x.shape[1]} / groups, kH, kW), O a multiple of '
                         'groups')
    if x.shape[1] % deform_groups:
        raise ValueError(f'{op}: deform_groups={deform_groups} must divide the {x.shape[1]} input channels')
    size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(
        x.shape[2:], kernel, stride, padding, dilation))
    if min(size) < 1:
        raise ValueError(f'{op}: the input {tuple(x.shape)} is too small for kernel {kernel}, padding {padding} and '
                         f'dilation {dilation}: the output would be {size[0]}x{size[1]}. Pad the input, or take a '
                         'smaller kernel or dilation')
    taps = deform_groups * kernel[0] * kernel[1]
    for name, tensor, channels in (('offset', offset, 2 * taps), ('mask', mask, taps), ('output', output, len(weight))):
        wanted = (len(x), channels, *size)
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise ValueError(f'{op}: {name} must be {wanted} for input {tuple(x.shape)}, kernel {kernel}, stride '
                             f'{stride}, padding {padding}, dilation {dilation} and deform_groups={deform_groups}, '
                             f'but is {tuple(tensor.shape)}')


def _as_read(op: str, name: str, tensor: Tensor, channels: int, output: Tensor) -> Tensor:
    """Return a tensor of a larger map, (B, channels, h, w), as mmcv's modulated kernels read it: (B, channels, Ho, Wo).

    They take the first ``channels * Ho * Wo`` numbers of each image. mmdet's DyHead samples a coarser level with the
    offsets of a finer one, and its published weights are trained like that.

    Raises:
        ValueError: If the tensor is too small.
    """
    size = output.shape[2:]
    wanted = channels * size.numel()
    if tensor.shape[2:] == size or tensor.dim() != 4 or tensor.shape[1] != channels or len(tensor) != len(output):
        return tensor
    if tensor.shape[1:].numel() < wanted:
        raise ValueError(f'{op}: {name} must be {(*tensor.shape[:2], *size)} or of a larger map, but is '
                         f'{tuple(tensor.shape)}')
    return tensor.flatten(1)[:, :wanted].unflatten(1, (channels, *size))


def _write_back(target: Tensor, grad: Tensor) -> None:
    """Write a gradient as :func:`_as_read` reads: the first numbers of each image; the others are 0."""
    if target.shape != grad.shape:
        rest = target.shape[1:].numel() - grad.shape[1:].numel()
        grad = torch.cat([grad.flatten(1), grad.new_zeros(len(grad), rest)], 1).view(target.shape)
    target.copy_(grad)


def _check_step(op: str, x: Tensor, im2col_step: int) -> None:
    """Raise a ValueError where mmcv would stop or return garbage."""
    if len(x) and (im2col_step < 1 or len(x) % im2col_step):
        raise ValueError(f'{op}: the batch of {len(x)} must be divisible by im2col_step={im2col_step}; set im2col_step '
                         'of the layer to a divisor of the batch size, or to 1')


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor,
                        kW: int, kH: int, dW: int, dH: int, padW: int, padH: int, dilationW: int, dilationH: int,
                        group: int, deformable_group: int, im2col_step: int) -> None:
    """Deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, Ho, Wo) pixels, y and x by turns.
        output: (B, O, Ho, Wo), written.
        columns, ones: Not used.
        kW, kH, dW, dH, padW, padH, dilationW, dilationH: Kernel, stride, padding and dilation.
        group: Groups of channels.
        deformable_group: Groups of offsets.
        im2col_step: Must divide B.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_step('deform_conv_forward', input, im2col_step)
    geometry = _Geometry('deform_conv_forward', (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group,
                         deformable_group)
    output.copy_(_Conv(geometry, input, weight, offset, None, output).forward())


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor, gradInput: Tensor,
                               gradOffset: Tensor, weight: Tensor, columns: Tensor, kW: int, kH: int, dW: int, dH: int,
                               padW: int, padH: int, dilationW: int, dilationH: int, group: int, deformable_group: int,
                               im2col_step: int) -> None:
    """Gradients of :func:`deform_conv_forward` for input (added to ``gradInput``) and offset (``gradOffset``).

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_step('deform_conv_backward_input', input, im2col_step)
    geometry = _Geometry('deform_conv_backward_input', (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group,
                         deformable_group)
    conv = _Conv(geometry, input, weight, offset, None, gradOutput)
    grad_input, grad_offset, *_ = conv.backward(gradOutput, inputs=True, parameters=False)
    gradInput.add_(grad_input)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor, gradWeight: Tensor,
                                    columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int,
                                    padH: int, dilationW: int, dilationH: int, group: int, deformable_group: int,
                                    scale: float, im2col_step: int) -> None:
    """Gradient of :func:`deform_conv_forward` for the weight: ``gradWeight += scale * gradient``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_step('deform_conv_backward_parameters', input, im2col_step)
    geometry = _Geometry('deform_conv_backward_parameters', (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW),
                         group, deformable_group)
    conv = _Conv(geometry, input, gradWeight, offset, None, gradOutput)
    gradWeight.add_(conv.backward(gradOutput, inputs=False, parameters=True)[3].to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                  mask: Tensor, output: Tensor, columns: Tensor, kernel_h: int, kernel_w: int,
                                  stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int,
                                  dilation_w: int, group: int, deformable_group: int, with_bias: bool) -> None:
    """Deformable convolution with a factor for each sample.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), or anything where ``with_bias`` is False.
        ones, columns: Not used.
        offset: (B, 2 * deformable_group * kernel_h * kernel_w, Ho, Wo) pixels, y and x by turns; of a larger map, see
            :func:`_as_read`.
        mask: (B, deformable_group * kernel_h * kernel_w, Ho, Wo), or of a larger map.
        output: (B, O, Ho, Wo), written.
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w: Of the convolution.
        group: Groups of channels.
        deformable_group: Groups of offsets.
        with_bias: Whether ``bias`` is added.

    Raises:
        ValueError: If the shapes do not fit.
    """
    geometry = _Geometry('modulated_deform_conv_forward', (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w),
                         (dilation_h, dilation_w), group, deformable_group)
    taps = deformable_group * kernel_h * kernel_w
    offset = _as_read(geometry.op, 'offset', offset, 2 * taps, output)
    mask = _as_read(geometry.op, 'mask', mask, taps, output)
    result = _Conv(geometry, input, weight, offset, mask, output).forward()
    if with_bias:
        result += widen(bias)[:, None, None]
    output.copy_(result)


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                   mask: Tensor, columns: Tensor, grad_input: Tensor, grad_weight: Tensor,
                                   grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
                                   kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
                                   dilation_h: int, dilation_w: int, group: int, deformable_group: int,
                                   with_bias: bool) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, written to ``grad_offset`` and ``grad_mask``, added to the
    others.

    Raises:
        ValueError: If the shapes do not fit.
    """
    geometry = _Geometry('modulated_deform_conv_backward', (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w),
                         (dilation_h, dilation_w), group, deformable_group)
    taps = deformable_group * kernel_h * kernel_w
    offset = _as_read(geometry.op, 'offset', offset, 2 * taps, grad_output)
    mask = _as_read(geometry.op, 'mask', mask, taps, grad_output)
    conv = _Conv(geometry, input, weight, offset, mask, grad_output)
    of_input, of_offset, of_mask, of_weight = conv.backward(grad_output, inputs=True, parameters=True)
    grad_input.add_(of_input)
    grad_weight.add_(of_weight)
    _write_back(grad_offset, of_offset)
    _write_back(grad_mask, of_mask)
    if with_bias:
        grad_bias.add_(widen(grad_output).sum((0, 2, 3)))
