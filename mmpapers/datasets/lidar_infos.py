"""A data set of LiDAR boxes whose classes are those of its info file."""

from collections.abc import Callable, Sequence

import numpy as np
from mmdet3d.datasets import Det3DDataset
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.fileio import join_path, load

from mmpapers.registry import DATASETS


@DATASETS.register_module()
class LidarInfosDataset(Det3DDataset):
    """Any LiDAR data set that was written as mmdet3d infos, without a class of its own.

    Stock ``Det3DDataset`` wants a subclass that lists the classes; here they are read from ``metainfo.categories`` of
    the infos, and ``metainfo=dict(classes=...)`` chooses some of them. Boxes of the infos are x, y, z of the centre,
    length, width, height, yaw in the frame of the points.

    Args:
        data_root: Root folder.
        ann_file: Infos (.pkl) relative to it.
        pipeline: Transforms.
        test_mode: Whether annotations are for evaluation only.
        min_points: Objects with fewer LiDAR points are left out, of training and evaluation; those of an unknown
            number stay.
        **kwargs: Arguments of ``mmdet3d.Det3DDataset``.
    """

    def __init__(self, data_root: str, ann_file: str, pipeline: Sequence[dict | Callable] = (), test_mode: bool = False,
                 min_points: int = 0, **kwargs) -> None:
        categories = load(join_path(data_root, ann_file))['metainfo'].get('categories')
        if not categories:
            raise ValueError(f'{ann_file} has no metainfo.categories ({{name: label}}), from which '
                             'mmpapers.LidarInfosDataset takes the classes')
        names = sorted((name for name, label in categories.items() if label >= 0), key=categories.get)
        if [categories[name] for name in names] != list(range(len(names))):
            raise ValueError(f'metainfo.categories of {ann_file} must number the classes 0, 1, 2, ... without gaps, '
                             f'and -1 what is left out; it has {categories}')
        metainfo = {'classes': tuple(names), **(kwargs.pop('metainfo', None) or {})}
        unknown = [name for name in metainfo['classes'] if name not in names]
        if unknown:
            raise ValueError(f'metainfo.classes names {", ".join(unknown)}, which {ann_file} has not; it has '
                             f'{", ".join(names)}')
        self.min_points = min_points
        self.METAINFO = dict(classes=tuple(names))
        super().__init__(data_root=data_root, ann_file=ann_file, metainfo=metainfo, pipeline=list(pipeline),
                         test_mode=test_mode, **kwargs)

    def parse_ann_info(self, info: dict) -> dict:
        """Annotations of one frame.

        Args:
            info: Its info.

        Returns:
            ``gt_bboxes_3d`` (LiDAR boxes), ``gt_labels_3d`` (N,), without objects of other classes.
        """
        found = super().parse_ann_info(info)
        if found is None:
            found = dict(gt_bboxes_3d=np.zeros((0, 7), np.float32), gt_labels_3d=np.zeros(0, np.int64))
        else:
            found = self._remove_dontcare(found)
            counts = found.get('num_lidar_pts')
            if counts is not None:
                keep = (counts < 0) | (counts >= self.min_points)
                found = {key: value if key == 'instances' else value[keep] for key, value in found.items()}
        found['gt_bboxes_3d'] = LiDARInstance3DBoxes(found['gt_bboxes_3d'], origin=(.5, .5, .5)).convert_to(
            self.box_mode_3d)
        return found
