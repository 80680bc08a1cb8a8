"""Deformable RoI pooling (Dai et al., ICCV 2017): average pooling of bins, each moved by its own offset.

mmcv has a kernel for CUDA only. Values are those of its kernel. Its gradient of the offsets is not that of its values
where a sample lies beyond the centres of the border pixels; here it is.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import _deform_cols as cols
from ._numba import widen


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, pooled_height: int,
                            pooled_width: int, spatial_scale: float, sampling_ratio: int, gamma: float) -> None:
    """Pool the map in moved bins.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), image index and x1, y1, x2, y2.
        offset: (R, 2, pooled_height, pooled_width), x and y in ``gamma`` times the RoI's size; or no elements.
        output: (R, C, pooled_height, pooled_width), written.
        pooled_height, pooled_width: Numbers of bins.
        spatial_scale: Pixels of the map in a pixel of the rois.
        sampling_ratio: Samples along each side of a bin; 0: as many as it has pixels, rounded up.
        gamma: Scale of the offsets.

    Raises:
        ValueError: If the shapes do not fit, or a RoI names an image that is not there.
    """
    _check('deform_roi_pool_forward', input, rois, offset, output, pooled_height, pooled_width)
    rows, size = widen(input).permute(0, 2, 3, 1).flatten(0, 2), tuple(input.shape[2:])
    bins = pooled_height * pooled_width
    result = rows.new_zeros(len(rois), bins, input.shape[1])
    for index, points in _points(widen(rois), widen(offset), (pooled_height, pooled_width), spatial_scale,
                                 sampling_ratio, gamma):
        pooled = rows.new_zeros(len(points), input.shape[1])
        for part, *sample in _samples(points, rois[index, 0], size, input.shape[1]):
            pooled[part] = cols.im2col(rows, *sample, size).sum(1)
        result[index] = pooled.view(-1, bins, input.shape[1])
    output.copy_(result.transpose(1, 2).reshape(output.shape))


def deform_roi_pool_backward(grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor, grad_input: Tensor,
                             grad_offset: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float,
                             sampling_ratio: int, gamma: float) -> None:
    """Gradients of :func:`deform_roi_pool_forward`, added to ``grad_input`` and ``grad_offset``.

    Raises:
        ValueError: If the shapes do not fit, or a RoI names an image that is not there.
    """
    _check('deform_roi_pool_backward', input, rois, offset, grad_output, pooled_height, pooled_width)
    rows, size = widen(input).permute(0, 2, 3, 1).flatten(0, 2), tuple(input.shape[2:])
    grad = widen(grad_output).flatten(2).transpose(1, 2)  # (R, bins, C)
    grad_rows, shift = torch.zeros_like(rows), rows.new_zeros(*grad.shape[:2], 2)
    for index, points in _points(widen(rois), widen(offset), (pooled_height, pooled_width), spatial_scale,
                                 sampling_ratio, gamma):
        of_bins = grad[index].flatten(0, 1)
        of_shift = points.new_zeros(len(points), 2)
        for part, *sample in _samples(points, rois[index, 0], size, input.shape[1]):
            of_columns = of_bins[part, None].expand(-1, points.shape[1], -1)
            _, of_points, _ = cols.col2im(rows, *sample, size, of_columns, grad_rows)
            free = (points[part] >= 0) & (points[part] < points.new_tensor(size) - 1)
            of_shift[part] = (of_points[:, 0] * free).sum(1)
        shift[index] = of_shift.view(-1, *shift.shape[1:])
    if offset.numel():
        _, extent = _spans(widen(rois), spatial_scale)
        grad_offset.add_((gamma * extent[:, None] * shift).flip(2).transpose(1, 2).reshape(offset.shape))
    grad_input.add_(grad_rows.view(len(input), *size, -1).permute(0, 3, 1, 2))


def _spans(rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Upper left corners and sizes (R, 2) of the RoIs, (y, x) in pixels of the map."""
    low, high = (rois[:, 1:].unflatten(1, (2, 2)).flip(2) * scale - 0.5).unbind(1)
    return low, high - low


def _points(rois: Tensor, offset: Tensor, bins: tuple[int, int], scale: float, ratio: int, gamma: float
            ) -> Iterator[tuple[Tensor, Tensor]]:
    """Sampling points, of all RoIs with the same number of samples in a bin at a time.

    Yields:
        (r,) indices of RoIs and (r * bins, samples, 2) y and x in pixels of the map.
    """
    low, extent = _spans(rois, scale)
    bin_size = extent / extent.new_tensor(bins)
    counts = torch.full_like(bin_size, ratio) if ratio > 0 else bin_size.ceil().clamp(min=0)
    if offset.numel():
        low = low[..., None, None] + gamma * extent[..., None, None] * offset.flip(1)
    else:
        low = low[..., None, None].expand(-1, -1, *bins)
    for count in counts.unique(dim=0):
        index = (counts == count).all(1).nonzero()[:, 0]
        axes = []
        for axis, n in enumerate(count.long().tolist()):
            bin_index = torch.arange(bins[axis], device=rois.device, dtype=rois.dtype)[:, None]
            inner = (torch.arange(n, device=rois.device, dtype=rois.dtype) + 0.5) / max(n, 1)
            axes.append(bin_size[index, axis, None, None] * (bin_index + inner))  # (r, bins of the axis, n)
        y = low[index, 0][..., None, None] + axes[0][:, :, None, :, None]
        x = low[index, 1][..., None, None] + axes[1][:, None, :, None, :]
        yield index, torch.stack(torch.broadcast_tensors(y, x), -1).flatten(3, 4).flatten(0, 2)


def _samples(points: Tensor, image: Tensor, size: tuple[int, int], channels: int
             ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Ranges of bins, and their points, masks and images as :func:`._deform_cols.im2col` takes them.

    A sample up to a pixel outside the map takes the value at its border, one farther away counts as 0.
    """
    bins, samples, _ = points.shape
    image = image.long().repeat_interleave(bins // len(image))
    step = max(1, 2 ** 20 // max(1, samples * channels))
    limit = points.new_tensor(size)
    for part in (slice(i, i + step) for i in range(0, bins, step)):
        taken = points[part, None]
        inside = ((taken >= -1) & (taken <= limit)).all(-1)
        yield part, taken.clamp(min=0).minimum(limit - 1), inside.to(taken.dtype) / max(samples, 1), image[part]


def _check(op: str, x: Tensor, rois: Tensor, offset: Tensor, output: Tensor, height: int, width: int) -> None:
    """Raise a ValueError that says what does not fit and what it must be."""
    if x.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f'{op}: input must be (B, C, H, W) and rois (R, 5), image index first, but they are '
                         f'{tuple(x.shape)} and {tuple(rois.shape)}')
    wanted = (len(rois), x.shape[1], height, width)
    if tuple(output.shape) != wanted or offset.numel() and tuple(offset.shape) != (len(rois), 2, height, width):
        raise ValueError(f'{op}: for {len(rois)} rois and {height}x{width} bins, offset must be '
                         f'{(len(rois), 2, height, width)} or empty and the output {wanted}, but they are '
                         f'{tuple(offset.shape)} and {tuple(output.shape)}')
    if len(rois) and not 0 <= rois[:, 0].min() <= rois[:, 0].max() <= len(x) - 1:
        raise ValueError(f'{op}: rois name images {int(rois[:, 0].min())} to {int(rois[:, 0].max())}, but the batch '
                         f'holds 0 to {len(x) - 1}; bbox2roi numbers them')
