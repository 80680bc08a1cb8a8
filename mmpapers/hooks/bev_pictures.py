"""Bird's-eye pictures of a test of a 3D detector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpapers.registry import HOOKS
from mmpapers.visualization.bev import Seen, draw_bev, save


@HOOKS.register_module()
class BEVPicturesHook(Hook):
    """Draw points, ground truth and predictions of every test frame from above.

    ``tools/test.py --show-dir`` puts it in the place of mmdet3d's ``Det3DVisualizationHook``, which needs open3d and a
    display for point clouds. Works for any mmdet3d detector that predicts ``pred_instances_3d``, in LiDAR, depth and
    camera coordinates; the points are those that the network was given.

    Args:
        folder: Where pictures go, below ``<work_dir>/<timestamp>`` if relative.
        score_thr: Lowest score that is drawn.
        limits: Part of the plane to draw, ``(a0, b0, a1, b1)`` metres, e.g. ``(0, -40, 70, 40)`` for KITTI; by default
            all predictions and nearly all points.
        most: Number of frames that are drawn; None for all.
    """

    def __init__(self, folder: str = 'bev', score_thr: float = 0.3, limits: Sequence[float] | None = None,
                 most: int | None = None) -> None:
        self.folder, self.score_thr, self.limits, self.most = folder, score_thr, limits, most
        self.drawn = 0

    def before_test(self, runner: Runner) -> None:
        """Count anew."""
        self.drawn = 0

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
                        ) -> None:
        """Draw a batch."""
        inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
        clouds = inputs.get('points') if isinstance(inputs, dict) else None
        metainfo = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        classes = metainfo.get('classes', ())
        for index, sample in enumerate(outputs or ()):
            if self.most is not None and self.drawn >= self.most:
                return
            predictions = sample.get('pred_instances_3d')
            if predictions is None or 'bboxes_3d' not in predictions:
                raise ValueError('BEVPicturesHook draws 3D boxes, but the model predicts no '
                                 'pred_instances_3d.bboxes_3d; take it out of the config, or run without --show-dir')
            source = sample.get('lidar_path') or sample.get('img_path') or f'{self.drawn:06}'
            source = source[0] if isinstance(source, list | tuple) else source
            name = Path(source).name.split('.')[0]
            figure = draw_bev(
                None if clouds is None else clouds[index].detach().cpu().numpy(), truth_of(sample),
                seen(predictions.bboxes_3d, predictions.labels_3d, predictions.scores_3d), classes,
                coordinates_of(predictions.bboxes_3d, metainfo.get('dataset')), self.limits, self.score_thr, name)
            save(figure, Path(runner.log_dir) / self.folder / f'{name}.png')
            self.drawn += 1


def seen(boxes: Any, labels: Any, scores: Any = None) -> Seen:
    """Boxes of mmdet3d as :class:`~mmpapers.visualization.bev.Seen`.

    Args:
        boxes: ``BaseInstance3DBoxes`` (N).
        labels: (N,) tensor or array.
        scores: (N,) likewise, or None.
    """
    arrays = [None if value is None else torch.as_tensor(value).detach().cpu().numpy() for value in (labels, scores)]
    return Seen(boxes.bev.detach().cpu().numpy(), *arrays, headed=bool(boxes.with_yaw))


def truth_of(sample: Any) -> Seen | None:
    """Annotated boxes of a test sample; None if it has none."""
    found = sample.get('eval_ann_info') or {}
    if 'gt_bboxes_3d' in found:
        return seen(found['gt_bboxes_3d'], np.asarray(found['gt_labels_3d']))
    truth = sample.get('gt_instances_3d')
    return seen(truth.bboxes_3d, truth.labels_3d) if truth is not None and 'bboxes_3d' in truth else None


def coordinates_of(boxes: Any, dataset: str | None = None) -> str:
    """Coordinates, as :func:`~mmpapers.visualization.bev.draw_bev` names them, of boxes of mmdet3d.

    Args:
        boxes: ``BaseInstance3DBoxes``.
        dataset: ``metainfo.dataset`` of the infos; nuScenes' LiDAR has y ahead, and mmdet3d leaves it so.
    """
    name = next(name for name in ('lidar', 'depth', 'camera') if name in type(boxes).__name__.lower())
    return 'nuscenes' if name == 'lidar' and dataset == 'nuscenes' else name
