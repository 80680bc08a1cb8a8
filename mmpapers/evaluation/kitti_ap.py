"""Average precision of KITTI's object benchmark: image, bird's-eye view, 3D and orientation, on the CPU.

The protocol is that of the official development kit (cvlibs.net/datasets/kitti, ``evaluate_object.cpp``) as mmdet3d
1.4.0 computes it on CUDA, so values agree with ``mmdet3d.evaluation.kitti_eval``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ops._numba import parallel
from .kitti_overlap import _counted, _found, frame_overlaps

DIFFICULTIES = ('easy', 'moderate', 'hard')
KINDS = ('2D', 'BEV', '3D')
# Smallest overlap of a hit by class: strict, as the benchmark has it, and loose (the image always uses the strict one).
LEAST = {'Car': (0.7, 0.5), 'Pedestrian': (0.5, 0.25), 'Cyclist': (0.5, 0.25), 'Van': (0.7, 0.5),
         'Person_sitting': (0.5, 0.25)}
NEIGHBOURS = {'Car': 'van', 'Pedestrian': 'person_sitting'}  # neither hit nor miss when they are found
_LEAST_HEIGHT = (40, 25, 25)  # pixels, by difficulty
_MOST_OCCLUSION = (0, 1, 2)
_MOST_TRUNCATION = (0.15, 0.3, 0.5)
_SAMPLES = 41


@dataclass
class Boxes:
    """Boxes of all frames, one after the other.

    Args:
        at: (F + 1,) where each frame begins.
        name: (N,) class names in lower case.
        image: (N, 4) left, top, right, bottom, pixels.
        box: (N, 7) x, y, z, length, height, width, yaw in camera coordinates, metres and radians.
        alpha: (N,) observation angle, radians.
        score: (N,) confidence; 0 for objects.
        occluded: (N,) 0 to 3.
        truncated: (N,) 0 to 1.
    """

    at: np.ndarray
    name: np.ndarray
    image: np.ndarray
    box: np.ndarray
    alpha: np.ndarray
    score: np.ndarray
    occluded: np.ndarray
    truncated: np.ndarray

    @classmethod
    def of(cls, annos: Sequence[dict]) -> 'Boxes':
        """Join the annotation dicts of mmdet3d (``name``, ``bbox``, ``location``, ``dimensions``, ...), one a frame."""
        def column(key: str, width: int = 0) -> np.ndarray:
            shape = (-1, width) if width else (-1,)
            rows = [np.asarray(anno.get(key, np.zeros(len(anno['name']))), np.float64).reshape(shape) for anno in annos]
            return np.concatenate([np.zeros((0, width) if width else 0), *rows])

        names = [str(name).lower() for anno in annos for name in anno['name']]
        return cls(np.concatenate(([0], np.cumsum([len(anno['name']) for anno in annos]))).astype(np.int64),
                   np.array(names, dtype='U'), column('bbox', 4),
                   np.hstack([column('location', 3), column('dimensions', 3), column('rotation_y', 1)]),
                   column('alpha'), column('score'), column('occluded'), column('truncated'))


@dataclass(frozen=True)
class Part:
    """A part of the objects that is evaluated by itself; those outside are neither hits nor misses.

    Args:
        name: How results are named.
        objects: (G,) objects of the part.
        detections: (D,) detections that count as false positives of the part when they hit nothing.
    """

    name: str
    objects: np.ndarray
    detections: np.ndarray


class KittiAP:
    """Evaluates detections of KITTI's classes; overlaps are computed once for all classes and difficulties.

    Args:
        gt_annos: Objects of each frame, as mmdet3d's ``KittiMetric`` prepares them.
        dt_annos: Detections of the same frames, likewise.
        least: Smallest overlap of a hit by class, ``{class: (strict, loose)}``; KITTI's by default.
        small_set: Read precision at the recall that was reached. KITTI's rule takes the i-th chosen score for the i-th
            of 41 recalls, so that n objects, all found, give (n - 1) / 40; from some hundred objects on both agree.

    Raises:
        ValueError: If the numbers of frames differ.
    """

    def __init__(self, gt_annos: Sequence[dict], dt_annos: Sequence[dict],
                 least: Mapping[str, tuple[float, float]] | None = None, small_set: bool = False) -> None:
        if len(gt_annos) != len(dt_annos):
            raise ValueError(f'{len(dt_annos)} frames were predicted, but {len(gt_annos)} have annotations; evaluate '
                             'with the test_dataloader whose ann_file the evaluator names')
        self.least = {**LEAST, **(least or {})}
        self.small_set = small_set
        self.gt, self.dt = Boxes.of(gt_annos), Boxes.of(dt_annos)
        self.iou, self.pair_at, self.covered = frame_overlaps(
            self.dt.at, self.gt.at, self.dt.image, self.gt.image, self.dt.box, self.gt.box, self.gt.name == 'dontcare')
        # The development kit leaves orientation out when nobody gives an angle (-10).
        self.has_alpha = bool((self.dt.alpha != -10).any() and (self.gt.alpha != -10).any())

    def states(self, name: str, difficulty: int, part: Part | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Whether boxes count (0), are taken without being counted (1) or are left out (-1), for a class.

        Args:
            name: Class.
            difficulty: 0 easy, 1 moderate, 2 hard.
            part: Objects to restrict the evaluation to.

        Returns:
            (G,) states of the objects and (D,) of the detections, int8. A detection too low for the difficulty is taken
            without being counted whatever its class, as in the development kit.
        """
        gt, dt = self.gt, self.dt
        height = gt.image[:, 3] - gt.image[:, 1]
        spared = (gt.occluded > _MOST_OCCLUSION[difficulty]) | (gt.truncated > _MOST_TRUNCATION[difficulty]) | \
            (height <= _LEAST_HEIGHT[difficulty])
        if part is not None:
            spared |= ~part.objects
        objects = np.where(gt.name == name.lower(), spared, -1)
        objects[gt.name == NEIGHBOURS.get(name)] = 1
        low = np.abs(dt.image[:, 3] - dt.image[:, 1]) < _LEAST_HEIGHT[difficulty]
        return objects.astype(np.int8), np.where(low, 1, np.where(dt.name == name.lower(), 0, -1)).astype(np.int8)

    def curves(self, name: str, difficulty: int, kind: str, least: float, part: Part | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
        """Precision and orientation similarity at 41 recalls from 0 to 1.

        Args:
            name: Class.
            difficulty: 0 easy, 1 moderate, 2 hard.
            kind: ``'2D'``, ``'BEV'`` or ``'3D'``.
            least: Smallest overlap of a hit.
            part: Objects to restrict the evaluation to.

        Returns:
            Two (41,), each value the largest at this or a higher recall; 0 beyond the highest recall reached.
        """
        gt, dt = self.gt, self.dt
        objects, detections = self.states(name, difficulty, part)
        frames = len(gt.at) - 1
        given = (dt.at, gt.at, self.pair_at, self.iou[KINDS.index(kind)], detections, objects, dt.score, float(least))
        found = np.full(len(objects), np.nan)
        parallel(_found, frames, *given, found, grain=32)
        count = int((objects == 0).sum())
        thresholds = score_thresholds(found[~np.isnan(found)], count)
        harmless = self.covered > least if kind == '2D' else np.zeros(len(detections), bool)
        if part is not None:
            harmless |= ~part.detections
        counts = np.zeros((frames, len(thresholds), 3))
        parallel(_counted, frames, *given, thresholds, dt.alpha, gt.alpha, harmless, counts, grain=32)
        hits, wrong, similar = counts.sum(0).T
        curves = np.zeros((2, _SAMPLES))
        at = np.arange(len(thresholds))
        if self.small_set:
            at = np.floor(hits / max(count, 1) * (_SAMPLES - 1) + 1e-6).astype(int)
        np.maximum.at(curves, (slice(None), at), np.stack([hits, similar]) / np.maximum(hits + wrong, 1))
        return tuple(np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1])

    def number(self, name: str, difficulty: int, part: Part | None = None) -> int:
        """Number of objects that count."""
        return int((self.states(name, difficulty, part)[0] == 0).sum())

    def threshold(self, name: str, kind: str, loose: bool = False) -> float:
        """Smallest overlap of a hit.

        Raises:
            KeyError: If the class is none of KITTI's and ``least`` has no value for it.
        """
        if name not in self.least:
            raise KeyError(f'KITTI defines no overlap threshold for the class {name!r} (only for '
                           f'{", ".join(LEAST)}); set test_evaluator.least = dict({name}=(0.7, 0.5)), strict and loose')
        return self.least[name][loose and kind != '2D']


def score_thresholds(scores: np.ndarray, count: int) -> np.ndarray:
    """Choose the scores at which recall comes nearest to 0, 1/40, 2/40, ... 1.

    Args:
        scores: Scores with which objects were found.
        count: Number of objects that count.

    Returns:
        At most 41 scores, descending.
    """
    scores = np.sort(scores)[::-1]
    chosen, recall, last = [], 0.0, len(scores) - 1
    for i, score in enumerate(scores):
        if i < last and (i + 2) / count - recall < recall - (i + 1) / count:
            continue
        chosen.append(score)
        recall += 1 / (_SAMPLES - 1)
    return np.array(chosen)


def ap(curve: np.ndarray, points: int) -> float:
    """Mean of a curve in percent: at recalls 0, 0.1, ... 1 (11 points) or 1/40, 2/40, ... 1 (40 points)."""
    return 100 * float(curve[::4].mean() if points == 11 else curve[1:].mean())
