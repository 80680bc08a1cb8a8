"""Shim: models of mmdet3d 1.4.0 that ask for CUDA or stop on ordinary input, and errors that do not say which file.

Why:
    1. ``Det3DDataPreprocessor`` moves the voxels of MinkUNet and SPVCNN to CUDA, wherever the points are.
    2. A cloud without a point in the range has no voxel, and detectors count the samples of a batch by the last voxel:
       the batch gets shorter, or "index -1 is out of bounds". One blank point in the middle of the range stands for
       such a cloud, and a warning says so.
    3. A truncated point file stops a run with "buffer size must be a multiple of element size". Indoors, an empty one
       stops it with an index error, and one NaN makes the height of every point NaN, so that nothing is found and no
       loss is finite. The error now names the file.
Upstream: not reported; mmdet3d is no longer maintained.
May go with mmdet3d.

Each module is mended when it is imported; nothing is imported early.
"""

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmpapers.compat.mending import mend, wrap
from mmpapers.datasets.points import PointFileError


def install() -> None:
    """Mend what is imported already, and the rest when it is imported; a second call does nothing."""
    mend(MENDERS)


def _voxels_of_any_cloud(stock: Callable) -> Callable:
    """Make MinkUNet's voxels where the points are; give hard and dynamic voxelization no empty cloud."""

    @torch.no_grad()
    def voxelize(self: Any, points: list[Tensor], data_samples: list) -> dict[str, Tensor]:
        if self.voxel_type == 'minkunet':
            return _minkunet_voxels(self, points, data_samples)
        if self.voxel_type in ('hard', 'dynamic'):
            points = [_not_empty(cloud, self.voxel_layer.point_cloud_range) for cloud in points]
        return stock(self, points, data_samples)

    return voxelize


def _not_empty(cloud: Tensor, limits: Sequence[float]) -> Tensor:
    """Return the cloud (N, C), or (1, C), zeros in the middle of the range, if no point lies in it."""
    low, high = cloud.new_tensor(limits).view(2, 3)
    if ((cloud[:, :3] >= low) & (cloud[:, :3] < high)).all(1).any():
        return cloud
    warnings.warn(f'a cloud of {len(cloud)} points has none inside point_cloud_range {list(limits)}; one blank point '
                  'stands for it')
    return F.pad((low + high)[None] / 2, (0, cloud.shape[1] - 3))


def _minkunet_voxels(self: Any, points: list[Tensor], data_samples: list) -> dict[str, Tensor]:
    """Do what stock does, without leaving the device of the points."""
    voxels, coors = [], []
    for i, (cloud, sample) in enumerate(zip(points, data_samples)):
        place = torch.round(cloud[:, :3] / cloud.new_tensor(self.voxel_layer.voxel_size)).int()
        place -= place.min(0)[0]
        kept, voxel_of_point = self.sparse_quantize(place.cpu().numpy(), return_index=True, return_inverse=True)
        if self.training and self.max_voxels is not None and len(kept) > self.max_voxels:
            kept = np.random.choice(kept, self.max_voxels, replace=False)
        kept = torch.from_numpy(kept).to(cloud.device)
        if hasattr(sample.gt_pts_seg, 'pts_semantic_mask'):
            sample.gt_pts_seg.voxel_semantic_mask = sample.gt_pts_seg.pts_semantic_mask[kept]
        sample.batch_idx = place.new_full((len(kept),), i)
        sample.point2voxel_map = torch.from_numpy(voxel_of_point).to(cloud.device).long()
        voxels.append(cloud[kept])
        coors.append(F.pad(place[kept], (1, 0) if self.batch_first else (0, 1), value=i))
    return {'voxels': torch.cat(voxels), 'coors': torch.cat(coors)}


def _whole_points(stock: Callable) -> Callable:
    """Refuse a file without whole points, and one from which no height above the floor follows."""

    def load_points(self: Any, pts_filename: str) -> np.ndarray:
        try:
            points = stock(self, pts_filename)
        except ValueError as error:
            raise PointFileError(f'{pts_filename} holds no whole number of float32 ({error}): it is truncated; copy '
                                 'the file again') from error
        if points.size % self.load_dim:
            raise PointFileError(f'{pts_filename} holds {points.size} numbers, no multiple of the {self.load_dim} '
                                 '(load_dim) of a point: it is truncated, or load_dim is wrong')
        if getattr(self, 'shift_height', False):
            bad = ~np.isfinite(points.reshape(-1, self.load_dim)[:, :3]).all(1)
            if bad.any() or not len(bad):
                fault = f'{bad.sum()} of {len(bad)} points are NaN or infinite' if len(bad) else 'it holds no point'
                raise PointFileError(f'{pts_filename}: {fault}, so there is no height above the floor (shift_height); '
                                     'write the file anew, or take the scene out of the infos')
        return points

    return load_points


def _mend_loading(module: ModuleType) -> None:
    for kind in (module.LoadPointsFromFile, module.LoadPointsFromMultiSweeps):
        wrap(kind, '_load_points', _whole_points)


def _mend_voxels(module: ModuleType) -> None:
    wrap(module.Det3DDataPreprocessor, 'voxelize', _voxels_of_any_cloud)


MENDERS = {
    'mmdet3d.models.data_preprocessors.data_preprocessor': _mend_voxels,
    'mmdet3d.datasets.transforms.loading': _mend_loading,
}
