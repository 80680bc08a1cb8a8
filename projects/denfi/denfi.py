"""Boundary-Aware Dense Feature Indicator for Single-Stage 3D Object Detection from Point Clouds, arXiv:2004.00186.

Official code: none released. Licence of this file: Apache-2.0.
Differences: the paper's text was not at hand; see the README for what a third party's reading note says of the method
and what is our choice. Ours: residual fusion as in ResNet, the detached offsets, the place of the neck.
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmcv.ops import DeformConv2d
from mmdet3d.models.detectors import CenterPoint, VoxelNet
from mmengine.model import BaseModule, constant_init
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.projects.denfi.geometry import deform_offsets, sampling_positions
from mmpapers.registry import MODELS

NORM = dict(type='BN', eps=1e-3, momentum=0.01)
"""That of mmdet3d's SECONDFPN."""


@MODELS.register_module()
class DENFIConv(BaseModule):
    """Depth-wise separable 3x3 convolution whose taps lie where they are told: depth-wise deformable, then 1x1.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        init_cfg: As in mmengine.
    """

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        self.depthwise = DeformConv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, im2col_step=1)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (B, in_channels, H, W).
            offsets: (B, 18, H, W), y and x of each tap relative to its regular place, in cells, row by row.

        Returns:
            (B, out_channels, H, W).
        """
        return self.pointwise(self.depthwise(x, offsets.to(x.dtype)))


@MODELS.register_module()
class DENFINeck(BaseModule):
    """Refine a bird's-eye map by sampling it on the boundaries of the objects that are proposed at every cell.

    It stands between a detector's neck and its head (:class:`AuxNeckVoxelNet`, :class:`AuxNeckCenterPoint`) and keeps
    the number of channels, so that neither changes.

    Args:
        in_channels: Channels of the map.
        proposal: Config of :class:`DenseBoundaryProposal`; ``in_channels`` is filled in.
        fuse: ``'add'`` for ReLU(F + BN(DENFIConv(F))), where BN starts at 0, so that a map without negative values, as
            SECONDFPN gives it, passes unchanged at first; ``'replace'`` for ReLU(BN(DENFIConv(F))). Default: 'add'
            (ours).
        detach_offset: Keep the gradient of the detection losses from the boundaries. Default: True (ours).
        guided: False samples the regular 3x3 grid, with all parameters and losses kept: the control experiment.
        aux_weight: Factor of the proposal's losses. Default: 1 (ours).
        norm_cfg: Normalisation.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If ``fuse`` or ``aux_weight`` is out of bounds.
    """

    def __init__(self,
                 in_channels: int,
                 proposal: dict,
                 fuse: str = 'add',
                 detach_offset: bool = True,
                 guided: bool = True,
                 aux_weight: float = 1.,
                 norm_cfg: dict = NORM,
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        if fuse not in ('add', 'replace'):
            raise ValueError(f"aux_neck.fuse={fuse!r} is unknown; choose 'add' or 'replace'")
        if aux_weight < 0:
            raise ValueError(f'aux_neck.aux_weight must not be negative, but is {aux_weight}')
        self.fuse = fuse
        self.detach_offset = detach_offset
        self.guided = guided
        self.aux_weight = aux_weight
        self.proposal = MODELS.build({'type': 'mmpapers.DenseBoundaryProposal', 'in_channels': in_channels, **proposal})
        self.conv = DENFIConv(in_channels, in_channels)
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]

    def init_weights(self) -> None:
        """Start with what was there before when ``fuse='add'``."""
        super().init_weights()
        constant_init(self.norm, 0 if self.fuse == 'add' else 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Refine the only map; class scores are not computed.

        Args:
            maps: One map (B, C, H, W).

        Returns:
            One map (B, C, H, W).
        """
        x = self._only(maps)
        return [self.refine(x, self.proposal(x))]

    def forward_train(self, maps: Sequence[Tensor], instances: Sequence[InstanceData]
                      ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Refine the only map and compute the auxiliary losses.

        Args:
            maps: One map (B, C, H, W).
            instances: ``bboxes_3d`` and ``labels_3d`` of each frame.

        Returns:
            One map (B, C, H, W), and the losses of :meth:`DenseBoundaryProposal.loss` times ``aux_weight``.
        """
        x = self._only(maps)
        raw = self.proposal(x)
        losses = self.proposal.loss(x, raw, [i.bboxes_3d.bev for i in instances], [i.labels_3d for i in instances])
        return [self.refine(x, raw)], {name: self.aux_weight * value for name, value in losses.items()}

    def refine(self, x: Tensor, raw: Tensor) -> Tensor:
        """Sample a map (B, C, H, W) at the boundaries ``raw`` (see :meth:`DenseBoundaryProposal.forward`)."""
        if self.guided:
            distances, axis = self.proposal.decode(raw.detach() if self.detach_offset else raw)
            offsets = deform_offsets(sampling_positions(distances, axis), self.proposal.grid)
        else:
            offsets = x.new_zeros(len(x), 18, *x.shape[2:])
        refined = self.norm(self.conv(x, offsets))
        return F.relu(x + refined if self.fuse == 'add' else refined)

    @staticmethod
    def _only(maps: Sequence[Tensor]) -> Tensor:
        """The map, or a ValueError if there are several."""
        if len(maps) != 1:
            raise ValueError(f'aux_neck refines one map, but the neck gives {len(maps)}; use a neck that joins its '
                             'levels, as SECONDFPN does')
        return maps[0]


@MODELS.register_module()
class AuxNeckVoxelNet(VoxelNet):
    """VoxelNet (PointPillars, SECOND) with a second neck that has losses of its own.

    All other parts keep their names, so a checkpoint of the plain detector fits.

    Args:
        aux_neck: Config of :class:`DENFINeck`.
        kwargs: Those of VoxelNet.

    Raises:
        ValueError: If the second neck counts on other voxels or classes than the rest of the model.
    """

    def __init__(self, aux_neck: dict, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aux_neck = MODELS.build(aux_neck)
        _check(self.aux_neck.proposal, kwargs.get('data_preprocessor'), kwargs['bbox_head'].get('num_classes'),
               'bbox_head')

    def extract_feat(self, batch_inputs_dict: dict) -> list[Tensor]:
        """Run all of the network but the head, without class scores of the second neck."""
        return self.aux_neck(super().extract_feat(batch_inputs_dict))

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: Any) -> dict[str, Any]:
        """Losses of the head and of the second neck; see mmdet3d."""
        maps = super().extract_feat(batch_inputs_dict)
        maps, losses = self.aux_neck.forward_train(maps, [s.gt_instances_3d for s in batch_data_samples])
        return self.bbox_head.loss(maps, batch_data_samples, **kwargs) | losses


@MODELS.register_module()
class AuxNeckCenterPoint(CenterPoint):
    """CenterPoint on points alone, with a second neck that has losses of its own.

    Args:
        aux_neck: Config of :class:`DENFINeck`.
        kwargs: Those of CenterPoint.

    Raises:
        ValueError: If the second neck counts on other voxels or classes than the rest of the model.
    """

    def __init__(self, aux_neck: dict, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aux_neck = MODELS.build(aux_neck)
        classes = sum(len(task['class_names']) for task in kwargs['pts_bbox_head']['tasks'])
        _check(self.aux_neck.proposal, kwargs.get('data_preprocessor'), classes, 'pts_bbox_head')

    def extract_feat(self, batch_inputs_dict: dict, batch_input_metas: list[dict]) -> tuple[None, list[Tensor]]:
        """Run all of the network but the head, without class scores of the second neck."""
        return None, self.aux_neck(super().extract_feat(batch_inputs_dict, batch_input_metas)[1])

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: Any) -> dict[str, Any]:
        """Losses of the head and of the second neck; see mmdet3d."""
        maps = super().extract_feat(batch_inputs_dict, [s.metainfo for s in batch_data_samples])[1]
        maps, losses = self.aux_neck.forward_train(maps, [s.gt_instances_3d for s in batch_data_samples])
        return self.pts_bbox_head.loss(maps, batch_data_samples, **kwargs) | losses


def _check(proposal: nn.Module, preprocessor: dict | nn.Module | None, num_classes: int | None, head: str) -> None:
    """Compare what the proposal was told with what the model was told.

    Raises:
        ValueError: Naming the two keys that differ.
    """
    layer = (preprocessor.get('voxel_layer') if isinstance(preprocessor, dict) else None) or {}
    for name, count in (('voxel_size', 2), ('point_cloud_range', 6)):
        own, other = getattr(proposal, name), layer.get(name)
        if other is not None and any(abs(a - b) > 1e-6 for a, b in zip(own[:count], other)):
            raise ValueError(f'model.aux_neck.proposal.{name}={list(own)} differs from model.data_preprocessor.'
                             f'voxel_layer.{name}={list(other)}; set both to the same')
    if num_classes is not None and num_classes != proposal.num_classes:
        raise ValueError(f'model.aux_neck.proposal.num_classes={proposal.num_classes}, but model.{head} has '
                         f'{num_classes} classes; set both to the same')
