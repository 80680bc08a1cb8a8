"""Conceptual clouds in a training pipeline: both clouds go through it as one, so that both are augmented alike."""

import os
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import LoadPointsFromFile
from mmdet3d.structures.points import BasePoints

from mmpapers.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadConceptualPoints(LoadPointsFromFile):
    """Append the conceptual cloud of the same name to the points; a last column says where each point comes from.

    In a pipeline it follows the loading of points and sweeps. It is also the ``points_loader`` of a ``db_sampler``:
    then it loads both clouds of an object, so that ``ObjectSample`` puts matching objects into both scenes and clears
    the place for them in both.

    Added column of ``points``: 0 for perceptual and 1 for conceptual points.

    Args:
        conceptual_prefix: Folder of the conceptual clouds; the file has the name of the perceptual one.
        coord_type: ``'LIDAR'``, ``'DEPTH'`` or ``'CAMERA'``.
        load_dim: Numbers per point in the file.
        use_dim: Which of them are used.
        **kwargs: See mmdet3d's ``LoadPointsFromFile``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If both clouds have different numbers per point.
    """

    def __init__(self, conceptual_prefix: str, coord_type: str = 'LIDAR', load_dim: int = 4,
                 use_dim: int | list[int] = 4, **kwargs: Any) -> None:
        super().__init__(coord_type=coord_type, load_dim=load_dim, use_dim=use_dim, **kwargs)
        self.conceptual_prefix = conceptual_prefix

    def transform(self, results: dict) -> dict:
        """Join both clouds in ``results['points']``, perceptual points first."""
        path = results['lidar_points']['lidar_path']
        twin = os.path.join(self.conceptual_prefix, os.path.basename(path))
        if self.backend_args is None and not os.path.isfile(twin):
            raise FileNotFoundError(f'there is no conceptual cloud {twin!r} for {path!r}: make it with `python -m '
                                    'mmpapers.projects.ago_net.build_scenes CONFIG FOLDER`, and give the folder of the '
                                    'clouds as LoadConceptualPoints.conceptual_prefix')
        clouds = [results['points'] if 'points' in results else self._load(path), self._load(twin)]
        if clouds[0].shape[1] != clouds[1].shape[1]:
            raise ValueError(f'points of {path!r} have {clouds[0].shape[1]} numbers here, those of {twin!r} '
                             f'{clouds[1].shape[1]}; LoadConceptualPoints.use_dim must choose the same')
        results['points'] = clouds[0].cat([_marked(cloud, origin) for origin, cloud in enumerate(clouds)])
        return results

    def _load(self, path: str) -> BasePoints:
        return super().transform(dict(lidar_points=dict(lidar_path=path)))['points']


def _marked(points: BasePoints, origin: int) -> BasePoints:
    """Points with a further column."""
    tensor = torch.cat([points.tensor, points.tensor.new_full((len(points), 1), origin)], 1)
    return type(points)(tensor, points_dim=tensor.shape[1], attribute_dims=points.attribute_dims)


@TRANSFORMS.register_module()
class SplitConceptualPoints(BaseTransform):
    """Part both clouds again; the last transform of a pipeline, after ``Pack3DDetInputs``.

    ``inputs['points']`` becomes the perceptual cloud, ``data_samples.conceptual_points`` the other, both without the
    column that :class:`LoadConceptualPoints` has added.

    Raises:
        ValueError: If nothing is packed yet.
    """

    def transform(self, results: dict) -> dict:
        """Part ``inputs['points']`` (N, C + 1)."""
        if 'inputs' not in results:
            raise ValueError('SplitConceptualPoints belongs behind Pack3DDetInputs in the train pipeline')
        points = results['inputs']['points']
        conceptual = points[:, -1] > 0.5
        results['inputs']['points'] = points[~conceptual, :-1].contiguous()
        results['data_samples'].conceptual_points = points[conceptual, :-1].contiguous()
        return results


@TRANSFORMS.register_module()
class PointsInImage(BaseTransform):
    """Keep the points inside a camera's image, as KITTI's ``velodyne_reduced`` does for objects that have labels.

    It belongs behind the loading of points, before any augmentation.

    Args:
        camera: Key of the camera in the infos.
    """

    def __init__(self, camera: str = 'CAM2') -> None:
        self.camera = camera

    def transform(self, results: dict) -> dict:
        """Drop all other points of ``results['points']``."""
        camera = results['images'][self.camera]
        matrix = np.asarray(camera['lidar2img'], np.float64)[:3]
        projected = results['points'].coord.numpy().astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]
        u, v, depth = projected.T
        keep = ((depth > 0) & (u >= 0) & (u <= depth * (camera['width'] - 1)) & (v >= 0)
                & (v <= depth * (camera['height'] - 1)))
        results['points'] = results['points'][torch.from_numpy(keep)]
        return results
