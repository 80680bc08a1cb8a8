"""Boundary-Aware Dense Feature Indicator for Single-Stage 3D Object Detection from Point Clouds, arXiv:2004.00186.

Official code: none released. Licence of this file: Apache-2.0.
Differences: the paper's text was not at hand; targets and losses follow a reading note of a third party, and what it
leaves open (README, *Paper, released code, ours*) is our choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModule, bias_init_with_prob
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.projects.denfi.geometry import (
    boundary_distances,
    decode_angle,
    encode_angle,
    local_coordinates,
    make_grid,
)
from mmpapers.registry import MODELS

LOSSES = ('cls', 'iou', 'bin', 'res')


class BoundaryTargets(NamedTuple):
    """What the cells of one frame or of a batch should predict.

    Args:
        positive: (..., K, H, W) bool, foreground of each class.
        ignored: (..., K, H, W) bool, cells that do not count for a class.
        foreground: (..., H, W) bool, cells whose boundary is trained.
        distances: (..., 4, H, W) left, right, top, bottom, metres; of the smallest box where several claim a cell.
        bins: (..., H, W) int64 bin of the axis.
        residuals: (..., H, W) rest of the axis in half bins.
    """
    positive: Tensor
    ignored: Tensor
    foreground: Tensor
    distances: Tensor
    bins: Tensor
    residuals: Tensor


@MODELS.register_module()
class DenseBoundaryProposal(BaseModule):
    """Predict, for every cell of a bird's-eye map, the boundary of the object that the cell lies in.

    Two 1x1 convolutions: class scores, which exist for training only, and the distances to the four sides of a rotated
    box with the direction of its axis as a bin and a residual.

    Args:
        in_channels: Channels of the map; :class:`DENFINeck` fills it in.
        num_classes: Number K of classes, those of the detection head.
        point_cloud_range: As in the data preprocessor: x, y, z of both corners, metres.
        voxel_size: As in the data preprocessor, metres.
        stride: Voxels per cell of the map.
        sigma1: A cell is foreground inside the box shrunk by this factor about its centre. Default: 0.5 (ours).
        sigma2: Cells inside the box shrunk by this one that are not foreground are ignored. Default: 0.8 (ours).
        num_bins: Number n of bins of the axis over half a turn. Default: 4 (ours).
        max_distance: Longest distance that is sampled, metres. Default: 10 (ours); longer than half of any object.
        loss_weights: Of classification (focal), boundary (-log IoU), bin (cross-entropy), residual (smooth L1).
            Default: 1, 1, 0.2, 1 (ours).
        init_cfg: As in mmengine.

    Raises:
        ValueError: If an option is out of bounds or range and cells do not fit.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 point_cloud_range: Sequence[float],
                 voxel_size: Sequence[float],
                 stride: int,
                 sigma1: float = 0.5,
                 sigma2: float = 0.8,
                 num_bins: int = 4,
                 max_distance: float = 10.,
                 loss_weights: Sequence[float] = (1., 1., .2, 1.),
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        if not 0 < sigma1 <= sigma2 <= 1:
            raise ValueError('0 < proposal.sigma1 <= proposal.sigma2 <= 1 must hold, but they are '
                             f'{sigma1} and {sigma2}')
        if num_bins < 1 or num_classes < 1 or max_distance <= 0:
            raise ValueError('proposal.num_bins, proposal.num_classes and proposal.max_distance must be positive, but '
                             f'are {num_bins}, {num_classes} and {max_distance}')
        if len(loss_weights) != len(LOSSES) or min(loss_weights) < 0:
            raise ValueError(f'proposal.loss_weights needs {len(LOSSES)} numbers that are not negative '
                             f'({", ".join(LOSSES)}), but is {list(loss_weights)}')
        self.grid = make_grid(point_cloud_range, voxel_size, stride)
        self.voxel_size, self.point_cloud_range, self.stride = tuple(voxel_size), tuple(point_cloud_range), stride
        self.num_classes = num_classes
        self.sigma1, self.sigma2 = sigma1, sigma2
        self.num_bins = num_bins
        self.max_distance = max_distance
        self.loss_weights = dict(zip(LOSSES, loss_weights))
        self.cls = nn.Conv2d(in_channels, num_classes, 1)
        self.reg = nn.Conv2d(in_channels, 4 + 2 * num_bins, 1)

    def init_weights(self) -> None:
        """Draw N(0, 0.01); scores start at 0.01, all distances at 1 m."""
        super().init_weights()
        for conv in (self.cls, self.reg):
            nn.init.normal_(conv.weight, std=.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls.bias, bias_init_with_prob(.01))

    def forward(self, x: Tensor) -> Tensor:
        """Predict the raw boundary of every cell.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            (B, 4 + 2n, H, W): logarithms of the distances in metres, logits of the bins, residuals of all bins.

        Raises:
            ValueError: If the map has another size than range, voxels and stride say.
        """
        if tuple(x.shape[2:]) != self.grid.size:
            (height, width), (h, w) = self.grid.size, x.shape[2:]
            hint = f'; proposal.stride={self.stride * height / h:g} would fit' if height * w == width * h else ''
            raise ValueError(f'proposal.point_cloud_range={list(self.point_cloud_range)}, proposal.voxel_size='
                             f'{list(self.voxel_size)} and proposal.stride={self.stride} make a map of {height} x '
                             f'{width} cells (y, x), but the neck gives {h} x {w}{hint}')
        return self.reg(x)

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Turn raw boundaries into distances and axes.

        Args:
            raw: Output of :meth:`forward`.

        Returns:
            Left, right, top, bottom (B, 4, H, W) in [0, ``max_distance``] metres; axis (B, H, W) in radians. Float32.
        """
        distances, bins, residuals = raw.float().split([4, self.num_bins, self.num_bins], 1)
        index = bins.argmax(1, keepdim=True)
        axis = decode_angle(index, residuals.gather(1, index), self.num_bins)[:, 0]
        return distances.exp().clamp(max=self.max_distance), axis

    @torch.no_grad()
    def targets(self, boxes: Tensor, labels: Tensor) -> BoundaryTargets:
        """Make the targets of one frame.

        A box without any foreground cell takes the cell that its centre lies in, if the centre of that cell lies in
        the box; else pedestrians would not be learned on coarse maps.

        Args:
            boxes: (N, 5) centre x, y, length, width (metres), yaw (radians), as ``bboxes_3d.bev`` of LiDAR boxes.
            labels: (N,) int64; boxes with -1, or without area, count for nothing.

        Raises:
            ValueError: If a label is not below ``num_classes``.
        """
        if len(labels) and int(labels.max()) >= self.num_classes:
            raise ValueError(f'a box has the label {int(labels.max())}, but proposal.num_classes={self.num_classes}; '
                             'set it to the number of classes in the metainfo of the data set')
        valid = (labels >= 0) & (boxes[:, 2:4] > 0).all(1)
        boxes, labels = boxes[valid], labels[valid]
        axis, bins, residuals = encode_angle(boxes[:, 4], self.num_bins)
        local = local_coordinates(self.grid, boxes[:, :2], axis)  # (2, N, H, W)
        half = boxes[:, 2:4].T[..., None, None] / 2
        reach = (local.abs() / half).amax(0)  # 1 at the sides of the box
        claimed = reach < self.sigma1
        x, y = self.grid.centres(boxes)
        nearest = ((x - boxes[:, :1]).abs() <= self.grid.cell[0] / 2)[:, None] & (
            (y - boxes[:, 1:2]).abs() <= self.grid.cell[1] / 2)[:, :, None]
        claimed |= nearest & (reach < 1) & ~claimed.flatten(1).any(1)[:, None, None]

        shape = (self.num_classes, *self.grid.size)
        positive = claimed.new_zeros(shape, dtype=torch.int32).index_add_(0, labels, claimed.int()) > 0
        near = claimed.new_zeros(shape, dtype=torch.int32).index_add_(0, labels, (reach < self.sigma2).int()) > 0
        foreground = claimed.any(0)
        if not len(boxes):
            empty = boxes.new_zeros(self.grid.size)
            return BoundaryTargets(positive, near, foreground, empty.expand(4, *empty.shape), empty.long(), empty)
        area = torch.where(claimed, (boxes[:, 2] * boxes[:, 3])[:, None, None], float('inf'))
        owner = area.argmin(0)  # (H, W), the smallest box
        distances = boundary_distances(local.gather(1, owner.expand(2, 1, -1, -1))[:, 0], 2 * half[:, owner, 0, 0])
        return BoundaryTargets(positive, near & ~positive, foreground, distances, bins[owner], residuals[owner])

    def loss(self, x: Tensor, raw: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compare scores and boundaries with the boxes of a batch.

        Args:
            x: The map (B, in_channels, H, W), from which the scores are predicted.
            raw: Output of :meth:`forward` for the same map.
            boxes: See :meth:`targets`, one tensor a frame.
            labels: Likewise.

        Returns:
            ``loss_boundary_cls``, ``..._iou``, ``..._bin`` and ``..._res``, each a sum over cells divided by the
            number of foreground cells; float32.
        """
        scores, raw = self.cls(x).float(), raw.float()
        frames = [self.targets(b.to(raw), n) for b, n in zip(boxes, labels, strict=True)]
        target = BoundaryTargets(*map(torch.stack, zip(*frames)))
        count = target.foreground.sum().to(raw)
        all_reduce(count, 'mean')
        count = count.clamp(min=1)
        chosen = target.foreground
        rows = raw.permute(0, 2, 3, 1)[chosen]  # (P, 4 + 2n)
        bins = target.bins[chosen]
        iou = boundary_iou(rows[:, :4].clamp(max=10).exp(), target.distances.permute(0, 2, 3, 1)[chosen])
        residuals = rows[:, 4 + self.num_bins:].gather(1, bins[:, None])[:, 0]
        terms = dict(
            cls=(focal_loss(scores, target.positive) * ~target.ignored).sum(),
            iou=-iou.clamp(min=1e-6).log().sum(),
            bin=F.cross_entropy(rows[:, 4:4 + self.num_bins], bins, reduction='sum'),
            res=F.smooth_l1_loss(residuals, target.residuals[chosen], beta=1 / 9, reduction='sum'))
        return {f'loss_boundary_{name}': self.loss_weights[name] * term / count for name, term in terms.items()}


def focal_loss(scores: Tensor, positive: Tensor, gamma: float = 2., alpha: float = .25) -> Tensor:
    """Focal loss of logits against booleans of the same shape, element by element."""
    probability = scores.sigmoid()
    weight = torch.where(positive, alpha * (1 - probability) ** gamma, (1 - alpha) * probability ** gamma)
    return weight * F.binary_cross_entropy_with_logits(scores, positive.to(scores), reduction='none')


def boundary_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of rectangles around the same point that are turned alike.

    Args:
        first: (N, 4) distances left, right, top, bottom, not negative.
        second: Likewise.

    Returns:
        (N,), in [0, 1].
    """
    least = torch.minimum(first, second)
    areas = [(d[:, 0] + d[:, 1]) * (d[:, 2] + d[:, 3]) for d in (least, first, second)]
    return areas[0] / (areas[1] + areas[2] - areas[0]).clamp(min=1e-6)
