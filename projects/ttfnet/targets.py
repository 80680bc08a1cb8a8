"""Training-Time-Friendly Network for Real-Time Object Detection, AAAI 2020, https://arxiv.org/abs/1909.00700

Official code: https://github.com/ZJULearning/ttfnet (Apache-2.0); nothing is copied from it.
Differences: all boxes of a batch at once instead of one after another; regression samples as a list of pixels instead
of dense maps; areas without the "+1 pixel" of mmdetection 1.x unless ``legacy_plus_one``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor

from mmpapers.registry import TASK_UTILS

AREA_WEIGHTS = {'log': torch.log, 'sqrt': torch.sqrt, 'area': torch.clone, 'none': torch.ones_like}


class TTFTargets(NamedTuple):
    """Targets of a batch; regression samples are the K pixels that some object owns.

    Attributes:
        heatmap: (B, C, H, W) in [0, 1]; 1 exactly at the pixel of each object's centre.
        pixels: (K,) int64, each sample's index into the flattened (B, H, W); no index occurs twice.
        boxes: (K, 4) the owner's box, x1 y1 x2 y2 in input pixels.
        weights: (K,) weight of the sample, at least 0.
    """
    heatmap: Tensor
    pixels: Tensor
    boxes: Tensor
    weights: Tensor

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return the samples as maps: boxes (B, 4, H, W), -1 where nobody owns the pixel, and weights (B, 1, H, W)."""
        batch, _, height, width = self.heatmap.shape
        boxes = self.boxes.new_full((batch * height * width, 4), -1)
        weights = self.weights.new_zeros(batch * height * width)
        boxes[self.pixels] = self.boxes
        weights[self.pixels] = self.weights
        return (boxes.view(batch, height, width, 4).permute(0, 3, 1, 2), weights.view(batch, 1, height, width))


class _Windows(NamedTuple):
    """The pixels under N truncated Gaussians, one row per (object, pixel) pair, T rows in the order of the objects."""
    owner: Tensor  # (T,) object
    pixel: Tensor  # (T,) index into the flattened (B, H, W)
    value: Tensor  # (T,) Gaussian, 1 at the centre
    total: Tensor  # (N,) sum of an object's values inside the map


@TASK_UTILS.register_module()
class TTFGaussianTarget:
    """Heat map and weighted regression samples from elliptic Gaussians, for a whole batch without a loop.

    An object's Gaussian reaches ``alpha`` of its half size. Every pixel under it is a regression sample, weighted by
    ``w_p = log(area) * G_p / sum G``, so an object contributes log(area) in total; pixels under several objects belong
    to the smallest one.

    Args:
        stride: Input pixels per map pixel. Official: 4.
        alpha: Share of the half box that the heat map's Gaussian covers. Official configs: 0.54.
        beta: The same for the regression samples; None means ``alpha`` (official). A tiny value leaves one sample an
            object.
        area_weight: An object's total weight: 'log', 'sqrt' or 'area' of its area, or 'none' for 1 (official: log).
        legacy_plus_one: Count a box x1..x2 as ``x2 - x1 + 1`` pixels wide, as mmdetection 1.x and the official code do.

    Raises:
        ValueError: If ``area_weight`` is none of these or ``alpha`` or ``beta`` is not positive.
    """

    def __init__(self,
                 stride: int = 4,
                 alpha: float = 0.54,
                 beta: float | None = None,
                 area_weight: str = 'log',
                 legacy_plus_one: bool = False) -> None:
        if area_weight not in AREA_WEIGHTS:
            raise ValueError(f'area_weight={area_weight!r} is unknown; choose one of {", ".join(AREA_WEIGHTS)}')
        self.beta = alpha if beta is None else beta
        if alpha <= 0 or self.beta <= 0:
            raise ValueError(f'alpha and beta must be positive, got alpha={alpha} and beta={beta}')
        self.stride = stride
        self.alpha = alpha
        self.area_weight = area_weight
        self.legacy_plus_one = legacy_plus_one
        self._warned = False

    @torch.no_grad()
    def __call__(self, gt_bboxes: Sequence[Tensor], gt_labels: Sequence[Tensor], shape: tuple[int, int, int]
                 ) -> TTFTargets:
        """Make the targets of a batch.

        Args:
            gt_bboxes: One (N_i, 4) tensor an image, x1 y1 x2 y2 in input pixels.
            gt_labels: One (N_i,) integer tensor an image, 0-based classes.
            shape: Classes, height and width of the heat map.

        Returns:
            The targets, on the device and in the dtype of the boxes.
        """
        num_classes, height, width = shape
        boxes = torch.cat(list(gt_bboxes))
        labels = torch.cat(list(gt_labels))
        image = torch.repeat_interleave(torch.arange(len(gt_bboxes), device=boxes.device),
                                        torch.tensor([len(b) for b in gt_bboxes], device=boxes.device))

        plus = float(self.legacy_plus_one)
        area = (boxes[:, 2] - boxes[:, 0] + plus) * (boxes[:, 3] - boxes[:, 1] + plus)
        area, order = area.clamp(min=1).sort(descending=True, stable=True)  # below a pixel log(area) would be negative
        boxes, labels, image = boxes[order], labels[order], image[order]

        # Sizes come from the box inside the map, centres from the whole box.
        clamped = (boxes / self.stride).clamp(min=0).minimum(
            boxes.new_tensor([width - 1, height - 1, width - 1, height - 1]))
        size = (clamped[:, 2:] - clamped[:, :2]).clamp(min=0)
        centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 / self.stride).int()
        self._report_outside(centre, height, width)

        windows = _windows(image, centre, (size / 2 * self.alpha).int(), height, width)
        heatmap = _zeros((len(gt_bboxes), num_classes, height, width), boxes)
        channel = (image * (num_classes - 1) + labels) * (height * width)  # (B, C, H, W) minus (B, H, W) offset
        heatmap.view(-1).scatter_reduce_(0, windows.pixel + channel.index_select(0, windows.owner), windows.value,
                                         'amax')

        if self.beta != self.alpha:
            windows = _windows(image, centre, (size / 2 * self.beta).int(), height, width)
        smallest = windows.owner.new_full((len(gt_bboxes) * height * width, ), -1)
        smallest.scatter_reduce_(0, windows.pixel, windows.owner, 'amax')  # objects are ordered from large to small
        won = (smallest.index_select(0, windows.pixel) == windows.owner).nonzero()[:, 0]
        owner = windows.owner[won]
        scale = AREA_WEIGHTS[self.area_weight](area) / windows.total.clamp(min=1e-12)
        return TTFTargets(heatmap, windows.pixel[won], boxes[owner], windows.value[won] * scale[owner])

    def _report_outside(self, centre: Tensor, height: int, width: int) -> None:
        """Say once that some objects have no peak."""
        if self._warned:
            return
        outside = ((centre < 0) | (centre >= centre.new_tensor([width, height]))).any(dim=1)
        if outside.any():
            self._warned = True
            MMLogger.get_current_instance().warning(
                f'{int(outside.sum())} of {len(centre)} boxes of this batch have their centre outside the image, so '
                'the heat map has no peak for them (said once). Boxes should be clipped to the image after a crop.')


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros; on the CPU from calloc, which spares writing the pages of a large map that stay empty."""
    if like.device.type == 'cpu' and like.dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, np.float32))
    return like.new_zeros(shape)


def _windows(image: Tensor, centre: Tensor, radius: Tensor, height: int, width: int) -> _Windows:
    """List the pixels under truncated Gaussians; kernels are (2r + 1) wide with sigma a sixth of that.

    Args:
        image: (N,) image of each object.
        centre: (N, 2) int, x y in map pixels; may lie outside.
        radius: (N, 2) int, x y.
        height: Rows of the map.
        width: Columns of the map.
    """
    # The Gaussian is separable, so N x (H + W) exponentials do.
    gauss_x, first_x, count_x = _profile(centre[:, 0], radius[:, 0], width)
    gauss_y, first_y, count_y = _profile(centre[:, 1], radius[:, 1], height)
    total = gauss_x.sum(1) * gauss_y.sum(1)

    # Expand objects to their rows, then rows to their pixels; per-pixel work is a gather and an addition each.
    count_y = count_y * (count_x > 0)
    row_object = torch.repeat_interleave(count_y)  # (R,)
    y = first_y[row_object] + torch.arange(len(row_object), device=image.device) - _starts(count_y)[row_object]
    length = count_x[row_object]
    row = torch.repeat_interleave(length)  # (T,)
    start = first_x[row_object] - _starts(length)
    step = torch.arange(len(row), device=row.device)
    owner = row_object.index_select(0, row)  # index_select: several times faster than [...] on the CPU
    pixel = step + ((image[row_object] * height + y) * width + start).index_select(0, row)
    column = step + (row_object * width + start).index_select(0, row)
    value = gauss_x.view(-1).index_select(0, column) * gauss_y[row_object, y].index_select(0, row)
    return _Windows(owner, pixel, value, total)


def _profile(centre: Tensor, radius: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample 1-D truncated Gaussians on 0..length-1: values (N, length), first pixel (N,), number of pixels (N,)."""
    offset = torch.arange(length, device=centre.device) - centre[:, None]
    sigma = (2 * radius[:, None] + 1).float() / 6
    gauss = torch.exp(-(offset * offset) / (2 * sigma * sigma)) * (offset.abs() <= radius[:, None])
    first = (centre - radius).clamp(min=0).long()
    last = (centre + radius).clamp(max=length - 1).long()
    return gauss, first, (last - first + 1).clamp(min=0)


def _starts(count: Tensor) -> Tensor:
    """Index of the first item of each of N groups laid out one after another."""
    return count.cumsum(0) - count
