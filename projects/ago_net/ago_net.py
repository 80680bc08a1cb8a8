"""AGO-Net: the plain detector on sparse clouds learns the features of its frozen twin on completed ones.

AGO-Net: Association-Guided 3D Point Cloud Object Detection Network, TPAMI 2021; released code: https://github.com/dleam/Associate-3Ddet-V2
Official code: https://github.com/dleam/Associate-3Ddet-V2 at 85f19a6, Apache-2.0; it is partial (see the README).
Differences: the twin is a whole detector in eval mode (the release leaves its batch norm in train mode), it is gone at
test time, the mask is the filled footprint of all classes, and the loss is re-weighted, which the release leaves out.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.registry import MODELS

from .loss import AssociationLoss
from .mask import SHAPES, foreground

_MATCHED = dict(pre='middle_encoder', post='neck')


@MODELS.register_module()
class AGONet(Distiller):
    """A LiDAR detector with a bird's-eye view map, taught by its twin that sees conceptual clouds.

    The twin's clouds are those of ``mmpapers.SplitConceptualPoints`` in the training pipeline. Where no sample has one,
    the twin sees the student's points, with a warning. At test time there is the student alone.

    Args:
        match: Which map is compared: ``'pre'``, that of the middle encoder, before the 2D backbone, or ``'post'``,
            that of the neck after it. By default ``'pre'`` for pillars and ``'post'`` for all others, as released.
        shape: ``'filled'``: cells inside a footprint; ``'outline'``: cells near its edge, as released.
        margin: How far from the footprint (or from its edge) a cell's centre may lie: by default as far as a cell is
            wide for ``'filled'``, and 1.5 m for ``'outline'`` (30 pixels of 0.1 m, released code).
        classes: Labels of the classes that are adapted; all by default. The released code adapts cars only.
        reweight: Whether :class:`~mmpapers.projects.ago_net.loss.InformativeReweight` weighs cells and channels.
        beta: Where the loss turns from squares to absolute values.
        point_cloud_range: Corners of the map, x, y, z low and high in metres; by default those of the voxel layer.
        **kwargs: See :class:`~mmpapers.distill.Distiller`. The term is ``association``, the role ``bev``.

    Raises:
        DistillError: If an argument is not one of the above, or the student has no such map or no range.
    """

    roles: ClassVar = dict(bev='identity')
    weights: ClassVar = dict(association=1.)

    def __init__(self, *args: Any, match: str | None = None, shape: str = 'filled', margin: float | None = None,
                 classes: Sequence[int] | None = None, reweight: bool = True, beta: float = 1.,
                 point_cloud_range: Sequence[float] | None = None, taps: dict[str, Any] | None = None,
                 **kwargs: Any) -> None:
        prefix = 'pts_' if hasattr(self, 'pts_bbox_head') else ''
        encoder = getattr(self, f'{prefix}middle_encoder', None)
        kinds = {type(module).__name__ for module in encoder.modules()} if encoder is not None else set()
        match = match or ('pre' if 'PointPillarsScatter' in kinds else 'post')
        if match not in _MATCHED or shape not in SHAPES:
            raise DistillError(f"distill.match={match!r}, distill.shape={shape!r}: match is 'pre' or 'post', shape "
                               f'{" or ".join(map(repr, SHAPES))}')
        if point_cloud_range is None:
            layer = getattr(getattr(self, 'data_preprocessor', None), 'voxel_layer', None)
            point_cloud_range = getattr(layer, 'point_cloud_range', None)
        if point_cloud_range is None:
            raise DistillError('the student has no voxel layer that tells where its map lies; say it: '
                               'distill = dict(point_cloud_range=[x, y, z, x, y, z])')
        self.shape, self.margin, self.reweight, self.beta = shape, margin, reweight, beta
        self.classes = None if classes is None else torch.tensor(list(classes), dtype=torch.long)
        self.area = tuple(map(float, point_cloud_range))
        super().__init__(*args, taps=dict(bev=prefix + _MATCHED[match]) | (taps or {}), **kwargs)

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Build the loss, whose attention needs the number of channels."""
        self.helpers['loss'] = AssociationLoss(student['bev'][0].shape[1] if self.reweight else None, self.beta)

    def teacher_inputs(self, inputs: dict, data_samples: Sequence) -> dict:
        """The conceptual clouds, voxelised as the twin does.

        Raises:
            DistillError: If only some samples have one.
        """
        clouds = [getattr(sample, 'conceptual_points', None) for sample in data_samples]
        missing = sum(cloud is None for cloud in clouds)
        if missing == len(clouds):
            warnings.warn("no sample has a conceptual cloud, so AGO-Net's twin sees the student's points: put "
                          'mmpapers.LoadConceptualPoints behind the loading of points in the train pipeline, and '
                          'mmpapers.SplitConceptualPoints at its end')
            return inputs
        if missing:
            raise DistillError(f'{missing} of {len(clouds)} samples have no conceptual cloud; all data sets of '
                               'train_dataloader need mmpapers.SplitConceptualPoints')
        out = dict(inputs, points=clouds)
        preprocessor = self.teacher.model.data_preprocessor
        if preprocessor.voxel:
            out['voxels'] = preprocessor.voxelize(clouds, list(data_samples))
        return out

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Compare both maps inside the objects."""
        student, teacher = next(seen.pairs('bev'))
        return dict(association=self.helpers['loss'](student, teacher, self.mask(seen.samples, student)))

    def mask(self, samples: Sequence, feature: Tensor) -> Tensor:
        """Draw the objects of all samples.

        Args:
            samples: Data samples with ``gt_instances_3d``.
            feature: Map (B, C, H, W).

        Returns:
            (B, 1, H, W), 1 for foreground and 0 elsewhere.
        """
        masks = []
        for sample in samples:
            boxes, labels = sample.gt_instances_3d.bboxes_3d.tensor, sample.gt_instances_3d.labels_3d
            if self.classes is not None:
                boxes = boxes[torch.isin(labels, self.classes.to(labels.device))]
            masks.append(foreground(boxes.to(feature), feature.shape[-2:], self.area, self.shape, self.margin))
        return torch.stack(masks).unsqueeze(1).to(feature)
