"""What a scene's camera meets, ray by ray: the common ground of labels and pictures."""

from dataclasses import dataclass

import numpy as np

from .geometry import cast_camera
from .labels import SKY
from .road import SEMANTIC_OF_ZONE
from .scene import Scene

NO_ZONE = 255


@dataclass(frozen=True)
class View:
    """Rays of a camera and what they meet first; every array has one row per ray, in image order.

    Args:
        rays: Directions in the ego frame, scaled to depth 1 along the optical axis, (N, 3).
        depth: Depth of the hit in metres, infinite in the sky, (N,).
        primitive: Primitive hit, -1 for ground and sky, int64 (N,).
        zone: Zone of the ground hit (see :mod:`.road`), NO_ZONE elsewhere, uint8 (N,).
        covered: Rays that meet each body when nothing stands before it, (bodies,).
    """

    rays: np.ndarray
    depth: np.ndarray
    primitive: np.ndarray
    zone: np.ndarray
    covered: np.ndarray

    def points(self, scene: Scene, rows: np.ndarray) -> np.ndarray:
        """Hit points in the ego frame of some rays, (rows, 3)."""
        return np.array(scene.camera.position) + self.rays[rows] * self.depth[rows, None]


def look(scene: Scene, samples: int = 1) -> View:
    """Cast ``samples`` x ``samples`` rays per pixel; with one, they go through the pixels' centres."""
    camera = scene.camera
    rays = camera.directions(samples)
    hits, covered = cast_camera(camera, rays, scene.primitives)
    rays = rays.reshape(-1, 3)
    solid, primitive = hits.distance.reshape(-1), hits.primitive.reshape(-1)
    down = rays[:, 2] < 0
    ground = np.where(down, camera.position[2] / np.where(down, -rays[:, 2], 1.0), np.inf)
    floor = np.flatnonzero(ground <= solid)
    floor = floor[np.isfinite(ground[floor])]
    primitive[floor] = -1
    zone = np.full(len(rays), NO_ZONE, np.uint8)
    x, y = (camera.position[axis] + rays[floor, axis] * ground[floor] for axis in (0, 1))
    zone[floor] = scene.road.zones(x, y)
    return View(rays, np.minimum(solid, ground), primitive, zone, covered)


def semantic_of(scene: Scene, view: View) -> np.ndarray:
    """Semantic class of each ray, uint8 (N,)."""
    semantic = np.full(len(view.depth), SKY, np.uint8)
    floor, solid = view.zone != NO_ZONE, view.primitive >= 0
    semantic[floor] = SEMANTIC_OF_ZONE[view.zone[floor]]
    semantic[solid] = scene.semantic[scene.primitives.body[view.primitive[solid]]]
    return semantic
