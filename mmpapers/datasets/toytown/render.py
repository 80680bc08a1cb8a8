"""The picture of a scene: rays, shadows, mirrors, haze, and the camera's tone curve and noise."""

import cv2
import numpy as np

from .draw import Draw
from .geometry import cast_rays, in_shadow, surface
from .materials import FACADE, MATTE, ROOF
from .scene import Scene, SceneObject
from .shading import Looks, ground_looks, solid_looks
from .sky import Light, clear_sky, light_of, sky
from .view import View, look

_LIFT = 0.02  # metres by which secondary rays start above a surface
_SHADOW_REACH = 170.0  # metres ahead; farther away nothing lies in shadow


def render(scene: Scene, view: View | None = None) -> np.ndarray:
    """Draw the image that the scene's camera sees.

    A pixel gets one sample at its centre, or four where its quarters do not all show the same thing or show a
    surface with fine detail.

    Args:
        scene: The scene.
        view: Its rays through the pixels' centres, to spare casting them again.

    Returns:
        RGB image, uint8 (H, W, 3).
    """
    draw = Draw(*scene.key, 1)
    seed = draw.integer(0, 1 << 20)
    light = light_of(scene.weather, draw.uniform(-0.05, 0.05), draw.uniform(0.88, 1.14))
    height, width = scene.camera.height, scene.camera.width
    centre, fine = view or look(scene), look(scene, 2)
    quarters = np.arange(4 * height * width).reshape(height, 2, width, 2).swapaxes(1, 2).reshape(-1, 4)
    busy = _textured(scene, centre.primitive)
    for name in ('primitive', 'zone'):
        busy |= (getattr(fine, name)[quarters] != getattr(centre, name)[:, None]).any(1)
    plain, split = np.flatnonzero(~busy), quarters[busy].reshape(-1)
    found = np.concatenate([_colour(scene, light, part, rows, seed) for part, rows in ((centre, plain), (fine, split))])
    glare = np.empty((height * width, 3), np.float32)
    picture = np.empty_like(glare)
    for target, source in ((glare, found), (picture, _tone(found * light.exposure))):
        target[plain] = source[:len(plain)]
        target[busy] = source[len(plain):].reshape(-1, 4, 3).mean(1)
    return _develop(picture.reshape(height, width, 3), glare.reshape(height, width, 3), scene, light, draw)


def _textured(scene: Scene, which: np.ndarray) -> np.ndarray:
    """Samples whose surface has detail finer than a pixel: facades and roofs."""
    material = np.append(scene.primitives.material, MATTE)[which]
    return (material == FACADE) | (material == ROOF)


def _colour(scene: Scene, light: Light, view: View, rows: np.ndarray, seed: int) -> np.ndarray:
    """Linear colours (rows, 3) seen along some rays of a view."""
    rays, depth = view.rays[rows], view.depth[rows]
    scale = np.sqrt(np.einsum('ni,ni->n', rays, rays))
    units = (rays / scale[:, None]).astype(np.float32)
    colour = np.empty((len(rays), 3), np.float32)
    away, seen = np.flatnonzero(np.isinf(depth)), np.flatnonzero(np.isfinite(depth))
    colour[away] = sky(units[away], light, seed)
    colour[seen] = _radiance(scene, light, view.points(scene, rows[seen]), units[seen], view.primitive[rows[seen]],
                             (depth * scale)[seen], seed, mirrors=True)
    return colour


def _radiance(scene: Scene, light: Light, points: np.ndarray, rays: np.ndarray, which: np.ndarray,
              distance: np.ndarray, seed: int, mirrors: bool) -> np.ndarray:
    """Light that leaves surface points towards the eye: (N, 3) for points (N, 3) seen along unit rays (N, 3)."""
    floor, solid = np.flatnonzero(which < 0), np.flatnonzero(which >= 0)
    ground = ground_looks(scene.road, points[floor], distance[floor], scene.weather.wetness, seed)
    local, normal = surface(points[solid], which[solid], scene.primitives)
    things = solid_looks(scene.primitives, which[solid], points[solid], local, normal, distance[solid], light.lamps)
    looks = Looks(*(np.empty((len(points), *a.shape[1:]), np.float32) for a in
                    (ground.albedo, ground.normal, ground.mirror, ground.glow)))
    for rows, part in ((floor, ground), (solid, things)):
        looks.albedo[rows], looks.normal[rows] = part.albedo, part.normal
        looks.mirror[rows], looks.glow[rows] = part.mirror, part.glow
    flat = np.zeros((len(points), 3))
    flat[floor, 2] = 1
    flat[solid] = normal
    open_sky = np.ones(len(points), np.float32)
    open_sky[floor] = _contact(points[floor], scene.objects)
    open_sky[solid] = 0.62 + 0.38 * np.clip(points[solid, 2] / 0.9, 0, 1)
    colour = looks.albedo * _irradiance(scene, light, points, flat, looks.normal, open_sky) + looks.glow
    colour += _mirrored(scene, light, points, rays, flat, looks, seed, mirrors)
    haze = np.exp(-distance / scene.weather.visibility).astype(np.float32)[:, None]
    return colour * haze + light.horizon * (1 - haze)


def _irradiance(scene: Scene, light: Light, points: np.ndarray, flat: np.ndarray, normal: np.ndarray,
                open_sky: np.ndarray) -> np.ndarray:
    """Sun, sky and bounced light on surfaces, (N, 3); ``flat`` are geometric normals, ``normal`` the bumpy ones."""
    up = 0.5 + 0.5 * normal[:, 2:]
    total = (light.ambient * up + light.bounce * (1 - up)) * open_sky[:, None]
    if light.sun.any():
        facing = np.clip(normal @ light.direction, 0, 1)
        lit = np.flatnonzero((facing > 0) & (flat @ light.direction.astype(np.float64) > -0.2))
        near = lit[points[lit, 0] < _SHADOW_REACH]
        dark = near[in_shadow(points[near] + flat[near] * _LIFT, light.direction.astype(np.float64),
                              scene.primitives)]
        free = np.setdiff1d(lit, dark, assume_unique=True)
        total[free] += light.sun * facing[free, None]
    return total


def _contact(points: np.ndarray, objects: tuple[SceneObject, ...]) -> np.ndarray:
    """Share of the sky that ground points near and under objects see, (N,)."""
    seen = np.ones(len(points), np.float32)
    for item in objects:
        x, y, _, length, width, _, yaw = item.box
        radius = (length + width) / 2 + 1.2
        near = np.flatnonzero((np.abs(points[:, 0] - x) < radius) & (np.abs(points[:, 1] - y) < radius))
        dx, dy = points[near, 0] - x, points[near, 1] - y
        along, across = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
        gap = np.hypot(np.maximum(np.abs(along) - length / 2, 0), np.maximum(np.abs(across) - width / 2, 0))
        depth = 0.78 if length > 2.5 else 0.45
        seen[near] *= 1 - depth * np.exp(-gap / (0.09 * min(length, width) + 0.06))
    return seen


def _mirrored(scene: Scene, light: Light, points: np.ndarray, rays: np.ndarray, flat: np.ndarray, looks: Looks,
              seed: int, mirrors: bool) -> np.ndarray:
    """Light from the mirror direction: the scene itself on wet ground, sky and a dark street elsewhere; (N, 3)."""
    extra = np.zeros((len(points), 3), np.float32)
    shiny = np.flatnonzero(looks.mirror > 0)
    normal = looks.normal[shiny]
    cosine = np.clip(-np.einsum('ni,ni->n', rays[shiny], normal), 0, 1)
    out = rays[shiny] + 2 * cosine[:, None] * normal
    share = looks.mirror[shiny] + (1 - looks.mirror[shiny]) * 0.75 * (1 - cosine) ** 5
    view = clear_sky(out, light)
    street = light.horizon * 0.22
    blend = np.clip((out[:, 2:] + 0.02) / 0.2, 0, 1)
    view = view * blend + street * (1 - blend)
    wet = np.flatnonzero((flat[shiny, 2] > 0.99) & (points[shiny, 2] < 0.01)) if mirrors else np.zeros(0, np.int64)
    if len(wet):
        rows = shiny[wet]
        # Rough water smears what it mirrors upright; a jitter of the slope does that at no cost.
        towards = out[wet].astype(np.float64)
        towards[:, 2] = np.abs(towards[:, 2]) + 0.004
        hits = cast_rays(points[rows] + flat[rows] * _LIFT, towards, scene.primitives)
        met = np.flatnonzero(hits.primitive >= 0)
        view[wet] = clear_sky(out[wet], light)
        where = points[rows[met]] + towards[met] * hits.distance[met, None]
        view[wet[met]] = _radiance(scene, light, where, out[wet[met]], hits.primitive[met], hits.distance[met], seed,
                                   mirrors=False)
    extra[shiny] = view * share[:, None]
    if light.sun.any():
        glint = np.clip(out @ light.direction, 0, 1) ** 90
        extra[shiny] += light.sun * (0.7 * glint * (looks.mirror[shiny] > 0.03))[:, None]
    return extra


def _tone(colour: np.ndarray) -> np.ndarray:
    """A filmic curve from linear light to display values in [0, 1]."""
    return np.clip(colour * (2.51 * colour + 0.03) / (colour * (2.43 * colour + 0.59) + 0.14), 0, 1) ** (1 / 2.2)


def _develop(x: np.ndarray, glare: np.ndarray, scene: Scene, light: Light, draw: Draw) -> np.ndarray:
    """Add glare of lamps, rain, vignette and sensor noise to display values (H, W, 3)."""
    height, width = x.shape[:2]
    if light.lamps > 0.3:
        x = x + cv2.GaussianBlur(np.clip(glare - 1.1, 0, 4), (0, 0), width / 100) * (0.3 * light.lamps)
    if scene.weather.kind == 'rain':
        x = x + _streaks(draw, height, width)[..., None] * np.array([0.9, 0.95, 1.0], np.float32)
    v, u = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    x = x * (1 - draw.uniform(0.03, 0.1) * (u * u + v * v))[..., None].astype(np.float32)
    sigma = draw.uniform(0.004, 0.011) * (1.7 if scene.weather.kind == 'dusk' else 1.0)
    x = x + sigma * (0.6 + 0.8 * np.sqrt(np.clip(x, 0, 1))) * draw.bell((height, width, 3))
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def _streaks(draw: Draw, height: int, width: int) -> np.ndarray:
    """Falling drops drawn out by the exposure, (H, W)."""
    drops = (draw.array(0, 1, (height, width)) > 0.9965).astype(np.float32)
    length, slope = max(height // 14, 3), draw.uniform(-0.35, 0.35)
    kernel = np.zeros((length, length), np.float32)
    for row in range(length):
        kernel[row, int(length / 2 + slope * (row - length / 2))] = 1 / length
    return cv2.GaussianBlur(cv2.filter2D(drops, -1, kernel), (0, 0), 0.6) * draw.uniform(1.0, 2.2)
