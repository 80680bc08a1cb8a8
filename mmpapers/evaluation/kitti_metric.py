"""KITTI's average precision as a metric: fast on the CPU, and by points per object or distance."""

from collections.abc import Mapping, Sequence

import numpy as np
from mmdet3d.evaluation.metrics import KittiMetric
from mmengine.logging import MMLogger, print_log
from terminaltables import AsciiTable

from mmpapers.registry import METRICS

from .kitti_ap import DIFFICULTIES, KINDS, KittiAP, Part, ap


@METRICS.register_module()
class FastKittiMetric(KittiMetric):
    """mmdet3d's ``KittiMetric`` with the same values, computed in seconds on the CPU, and with parts of the objects.

    Keys are those of ``KittiMetric``, and ``.../Car_AOS_AP40_moderate_strict`` for orientation. A part adds e.g.
    ``.../Car_3D_AP40_moderate_strict_points_<10``, for BEV and 3D at the strict overlap. Objects outside a part are
    neither hits nor misses. A false positive has no object and so no number of points: it counts in every part by
    points, which makes parts comparable between detectors, not among themselves. By distance it counts where it lies.
    A part without objects has no value.

    Args:
        ann_file: mmdet3d infos (.pkl) of the evaluated split.
        metric: ``'bbox'`` (2D, BEV, 3D and AOS) or ``'img_bbox'`` (2D and AOS).
        point_bins: Limits that split objects by their number of LiDAR points; ``(10, 50)`` makes the parts <10, 10-50
            (50 excluded) and >=50. The infos need ``num_lidar_pts``.
        distance_bins: Limits that split objects by their distance from the camera, metres.
        least: Smallest overlap of a hit for classes that KITTI has not, ``{class: (strict, loose)}``.
        small_set: Read precision at the recall that was reached, for data sets with few objects. KITTI's own rule,
            the default, gives a perfect detector (n - 1) / 40 for n < 41 objects.
        **kwargs: Arguments of ``mmdet3d.KittiMetric``.
    """

    def __init__(self, ann_file: str, metric: str | list[str] = 'bbox', point_bins: Sequence[float] = (),
                 distance_bins: Sequence[float] = (), least: Mapping[str, tuple[float, float]] | None = None,
                 small_set: bool = False, **kwargs) -> None:
        super().__init__(ann_file, metric=metric, **kwargs)
        for name, bins in (('point_bins', point_bins), ('distance_bins', distance_bins)):
            if list(bins) != sorted(set(bins)):
                raise ValueError(f'test_evaluator.{name} must be ascending limits such as (10, 50), not {bins}')
        self.point_bins, self.distance_bins, self.least = tuple(point_bins), tuple(distance_bins), least
        self.small_set = small_set

    def convert_annos_to_kitti_annos(self, data_infos: dict) -> list[dict]:
        """Add the number of LiDAR points of each object to the annotations.

        Raises:
            ValueError: If ``point_bins`` is set and the infos count no points.
        """
        frames = super().convert_annos_to_kitti_annos(data_infos)
        if self.point_bins and not self.format_only:
            for frame in frames:
                counts = [instance.get('num_lidar_pts') for instance in frame['instances']]
                if None in counts:
                    raise ValueError(f'test_evaluator.point_bins needs num_lidar_pts of every instance, which '
                                     f'{self.ann_file} lacks; write it with tools/dataset_converters/kitti.py')
                frame['kitti_annos']['num_points'] = np.array(counts, float)
        return frames

    def kitti_evaluate(self, results_dict: dict, gt_annos: list[dict], metric: str | None = None,
                       classes: Sequence[str] | None = None, logger: MMLogger | None = None) -> dict[str, float]:
        """Evaluate each kind of prediction (``pred_instances_3d``, ``pred_instances``).

        Args:
            results_dict: Detections by kind of prediction, one annotation dict a frame.
            gt_annos: Objects, one annotation dict a frame.
            metric: ``'bbox'`` or ``'img_bbox'``.
            classes: Class names.
            logger: Where the table goes.

        Returns:
            Average precisions in percent, rounded to four digits as mmdet3d does.
        """
        values: dict[str, float] = {}
        for name, dt_annos in results_dict.items():
            kinds = KINDS[:1] if name == 'pred_instances' or metric == 'img_bbox' else KINDS
            evaluation = KittiAP(gt_annos, dt_annos, self.least, self.small_set)
            found = self._whole(evaluation, classes, kinds)
            lines = [_table(found, classes), *self._few(evaluation, classes)]
            parts = [*self._by_points(evaluation, gt_annos), *self._by_distance(evaluation)] if len(kinds) > 1 else []
            rows = [['3D, strict', 'part', *(f'R40 {word}' for word in DIFFICULTIES), 'objects']]
            for part in parts:
                part_values, part_rows = _part(evaluation, classes, part)
                found.update(part_values)
                rows += part_rows
            lines += [_ruled(rows, words=2)] if parts else []
            print_log(f'KITTI average precision of {name}, percent\n' + '\n'.join(lines), logger=logger)
            values.update({f'{name}/KITTI/{key}': round(value, 4) for key, value in found.items()})
        return values

    def _few(self, evaluation: KittiAP, classes: Sequence[str]) -> list[str]:
        """A remark where KITTI's rule cannot reach 100."""
        few = {name: evaluation.number(name, 2) for name in classes}
        few = {name: number for name, number in few.items() if 0 < number < 41}
        if self.small_set or not few:
            return []
        return [f'Few objects ({", ".join(f"{number} {name}" for name, number in few.items())}): by KITTI\'s rule AP '
                'cannot exceed (objects - 1) / 40 at R40. test_evaluator.small_set = True lifts that.']

    @staticmethod
    def _whole(evaluation: KittiAP, classes: Sequence[str], kinds: Sequence[str]) -> dict[str, float]:
        """Every class, difficulty and overlap, and the mean over classes."""
        found = {}
        for name in classes:
            for kind in kinds:
                for loose, word in enumerate(('strict', 'loose')):
                    for number, difficulty in enumerate(DIFFICULTIES):
                        curves = evaluation.curves(name, number, kind, evaluation.threshold(name, kind, bool(loose)))
                        for points in (11, 40):
                            found[f'{name}_{kind}_AP{points}_{difficulty}_{word}'] = ap(curves[0], points)
                            if kind == '2D' and evaluation.has_alpha:
                                found[f'{name}_AOS_AP{points}_{difficulty}_{word}'] = ap(curves[1], points)
        if len(classes) > 1:
            for kind in (*kinds, *(['AOS'] if evaluation.has_alpha else [])):
                for points in (11, 40):
                    for difficulty in DIFFICULTIES:
                        found[f'Overall_{kind}_AP{points}_{difficulty}'] = float(np.mean(
                            [found[f'{name}_{kind}_AP{points}_{difficulty}_strict'] for name in classes]))
        return found

    def _by_points(self, evaluation: KittiAP, gt_annos: Sequence[dict]) -> list[Part]:
        """Parts by number of LiDAR points."""
        if not self.point_bins:
            return []
        points = np.concatenate([anno['num_points'] for anno in gt_annos])
        everywhere = np.ones(len(evaluation.dt.name), bool)
        return [Part(f'points_{name}', where, everywhere) for name, where in _split(self.point_bins, points)]

    def _by_distance(self, evaluation: KittiAP) -> list[Part]:
        """Parts by horizontal distance from the camera."""
        objects, detections = (_split(self.distance_bins, np.hypot(boxes.box[:, 0], boxes.box[:, 2]))
                               for boxes in (evaluation.gt, evaluation.dt))
        return [Part(f'metres_{name}', where, where_dt) for (name, where), (_, where_dt) in zip(objects, detections)]


def _split(limits: Sequence[float], values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Names and masks of the half-open parts between limits; none without limits."""
    if not limits:
        return []
    names = [f'<{limits[0]:g}', *(f'{a:g}-{b:g}' for a, b in zip(limits, limits[1:])), f'>={limits[-1]:g}']
    index = np.digitize(values, limits)
    return [(name, index == i) for i, name in enumerate(names)]


def _part(evaluation: KittiAP, classes: Sequence[str], part: Part) -> tuple[dict[str, float], list[list[str]]]:
    """Values of one part, and a row for each class."""
    found, rows = {}, []
    for name in classes:
        counts = [evaluation.number(name, number, part) for number in range(3)]
        for kind in ('BEV', '3D'):
            for number, difficulty in enumerate(DIFFICULTIES):
                if counts[number]:
                    curve, _ = evaluation.curves(name, number, kind, evaluation.threshold(name, kind), part)
                    found[f'{name}_{kind}_AP40_{difficulty}_strict_{part.name}'] = ap(curve, 40)
        values = [found.get(f'{name}_3D_AP40_{difficulty}_strict_{part.name}') for difficulty in DIFFICULTIES]
        rows.append([name, part.name, *('-' if value is None else f'{value:.2f}' for value in values),
                     ', '.join(map(str, counts))])
    return found, rows


def _table(found: Mapping[str, float], classes: Sequence[str]) -> str:
    """Rows of class, overlap and kind; columns of difficulty at 40 and 11 recalls."""
    rows = [['class', 'overlap', 'kind', *(f'R{points} {word}' for points in (40, 11) for word in DIFFICULTIES)]]
    groups = [(name, word, f'_{word}') for name in classes for word in ('strict', 'loose')]
    for name, word, ending in groups + ([('Overall', 'strict', '')] if len(classes) > 1 else []):
        for kind in (*KINDS, 'AOS') if word == 'strict' else ('BEV', '3D'):  # the image is never judged loosely
            if f'{name}_{kind}_AP40_easy{ending}' in found:
                values = [found[f'{name}_{kind}_AP{points}_{difficulty}{ending}'] for points in (40, 11)
                          for difficulty in DIFFICULTIES]
                rows.append([name, word, kind, *(f'{value:.2f}' for value in values)])
    return _ruled(rows, words=3)


def _ruled(rows: list[list[str]], words: int) -> str:
    """A table with lines, as the toolboxes print results; columns after the first ``words`` hold numbers."""
    table = AsciiTable(rows)
    table.justify_columns = dict.fromkeys(range(words, len(rows[0])), 'right')
    return table.table
