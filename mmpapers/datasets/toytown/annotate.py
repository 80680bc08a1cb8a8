"""Exact labels of a scene: one ray through the centre of each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .labels import BUILDING, SKY, VEGETATION
from .scene import Scene
from .view import View, look, semantic_of

ABSENT = -2  # TuSimple's mark for "no lane in this row"
_LANE_START, _LANE_REACH = 0.8, 60.0
_SCENERY = (BUILDING, VEGETATION, SKY)


@dataclass(frozen=True)
class Labels:
    """Labels of one image.

    Args:
        semantic: Class of each pixel, 255 for what has none (poles, signs), uint8 (H, W).
        instance: 1 + index of the scene object seen in each pixel, 0 for none, int32 (H, W).
        depth: Depth along the optical axis in metres, infinite in the sky, float64 (H, W).
        covered: Pixels inside the image that each object would take if nothing stood before it, (objects,).
    """

    semantic: np.ndarray
    instance: np.ndarray
    depth: np.ndarray
    covered: np.ndarray


def annotate(scene: Scene, view: View | None = None) -> Labels:
    """Label every pixel of a scene's camera; ``view`` spares casting its rays again."""
    view = view or look(scene)
    shape = scene.camera.height, scene.camera.width
    count = len(scene.objects)
    instance = np.zeros(len(view.depth), np.int32)
    solid = np.flatnonzero(view.primitive >= 0)
    body = scene.primitives.body[view.primitive[solid]]
    instance[solid] = np.where(body < count, body + 1, 0)
    return Labels(semantic_of(scene, view).reshape(shape), instance.reshape(shape), view.depth.reshape(shape),
                  view.covered[:count])


def lane_columns(scene: Scene, labels: Labels, rows: Sequence[int]) -> np.ndarray:
    """Trace the painted lines of the road through the image, in TuSimple's manner.

    A line is followed behind traffic and through the gaps of its dashes, up to 60 m; it is absent where scenery hides
    it and outside the image.

    Args:
        scene: The scene.
        labels: Its labels.
        rows: Image rows to sample.

    Returns:
        Column of each line in each row, -2 where it is absent, int64 (lines, rows), lines from left to right.
    """
    height, width = labels.semantic.shape
    inverse = np.linspace(1 / _LANE_REACH, 1 / _LANE_START, 600)
    x = 1 / inverse  # far to near, so that image rows grow
    columns = np.full((len(scene.road.lines), len(rows)), ABSENT, np.int64)
    for index, line in enumerate(scene.road.lines):
        pixels, depth = scene.camera.project(np.stack([x, scene.road.middle(x) + line.offset, np.zeros_like(x)], -1))
        pixels = pixels[depth > 0.1]
        column = np.interp(rows, pixels[:, 1], pixels[:, 0], left=-np.inf, right=-np.inf)
        column = np.floor(np.clip(column, -1, width) + 0.5).astype(np.int64)
        inside = (column >= 0) & (column < width)
        seen = labels.semantic[np.asarray(rows)[inside], column[inside]]
        columns[index, np.flatnonzero(inside)] = np.where(np.isin(seen, _SCENERY), ABSENT, column[inside])
    return columns
