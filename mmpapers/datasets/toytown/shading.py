"""How surfaces look: albedo and gloss of the ground and of each material, before light is applied."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import materials as m
from .geometry import Primitives
from .noise import cell_noise, fractal
from .road import ASPHALT, GRASS, KERB, PAVING, WHITE_PAINT, YELLOW_PAINT, Road


@dataclass
class Looks:
    """Appearance of N surface points.

    Args:
        albedo: Linear colour, float32 (N, 3).
        normal: Unit normal that light uses, float32 (N, 3).
        mirror: Share of mirrored light seen head-on, float32 (N,); it grows towards grazing angles.
        glow: Emitted light, float32 (N, 3).
    """

    albedo: np.ndarray
    normal: np.ndarray
    mirror: np.ndarray
    glow: np.ndarray


def ground_looks(road: Road, points: np.ndarray, distance: np.ndarray, wetness: float, seed: int) -> Looks:
    """Asphalt with tracks and patches, worn paint, kerb stones, slabs and grass.

    Args:
        road: The road.
        points: Ground points in the ego frame, (N, 3).
        distance: Distance from the camera, (N,); fine detail fades with it.
        wetness: 0 for dry, 1 for wet.
        seed: Seed of the patterns.
    """
    x, y = points[:, 0], points[:, 1]
    lateral = y - road.middle(x)
    zone = road.zones(x, y)
    plane = np.stack([x, lateral], 1)
    fine = np.clip(1 - distance / 22, 0, 1).astype(np.float32)
    coarse = fractal(plane * 0.35, 2, seed) - 0.5
    grain = (fractal(plane * 13, 3, seed + 5) - 0.5) * fine
    albedo = np.empty((len(points), 3), np.float32)
    worn = np.clip(fractal(plane * (1.1, 3.3), 3, seed + 9) * 2.6 - 0.55, 0.25, 1)

    tone = 0.082 + 0.022 * np.float32(cell_noise(np.array([[seed, 0, 0]]))[0])
    tracks = np.mod(lateral - road.lanes[0].offset + road.lane_width / 2, road.lane_width) / road.lane_width
    tracks = np.exp(-((np.abs(tracks - 0.5) - 0.24) / 0.09) ** 2)
    cells = np.stack([np.floor(x / 7.3), np.floor(lateral / 1.8), np.zeros_like(x)], 1).astype(np.int64)
    patch = (cell_noise(cells, seed + 3) < 0.05) * 0.24
    asphalt = tone * (1 + 0.36 * coarse + 0.6 * grain - 0.14 * tracks - patch)
    albedo[:] = asphalt[:, None] * np.array([1.0, 1.0, 1.03], np.float32)
    for code, colour in ((WHITE_PAINT, (0.72, 0.72, 0.69)), (YELLOW_PAINT, (0.72, 0.47, 0.08))):
        here = zone == code
        cover = worn[here, None]
        albedo[here] = albedo[here] * (1 - cover) + np.array(colour, np.float32) * cover

    here = zone == KERB
    joint = 1 - 0.35 * (np.mod(x[here], 1.0) < 0.04) * fine[here]
    albedo[here] = (0.31 * joint * (1 + 0.3 * coarse[here]))[:, None]
    here = zone == PAVING
    tile = np.stack([x[here], lateral[here]], 1) / 0.62
    tile[:, 0] += 0.5 * np.mod(np.floor(tile[:, 1]), 2)
    index = np.concatenate([np.floor(tile), np.zeros((len(tile), 1))], 1).astype(np.int64)
    edge = (np.abs(tile - np.floor(tile) - 0.5) > 0.47).any(1)
    pattern = (0.26 * (cell_noise(index, seed) - 0.5) - 0.35 * edge) * fine[here]
    warm = 0.06 * (np.float32(cell_noise(np.array([[seed, 1, 0]]))[0]) - 0.3)
    slab = 0.235 * (1 + pattern + 0.35 * coarse[here] + 0.3 * grain[here])
    albedo[here] = slab[:, None] * np.array([1 + warm, 1.0, 1 - warm], np.float32)
    here = zone == GRASS
    blades = fractal(plane[here] * 2.2, 3, seed + 11)
    dry = fractal(plane[here] * 0.12, 2, seed + 13)[:, None]
    lawn = np.array([0.062, 0.125, 0.022]) * (1 - dry) + np.array([0.15, 0.15, 0.045]) * dry
    albedo[here] = lawn * (0.55 + 0.9 * blades)[:, None]

    normal = np.zeros_like(albedo)
    normal[:, 2] = 1
    mirror = np.zeros(len(points), np.float32)
    if wetness:
        hard = zone != GRASS
        puddle = np.clip(fractal(plane * (0.22, 0.5), 3, seed + 21) * 2.4 - 0.75, 0.12, 1)
        albedo[hard] *= 1 - 0.45 * wetness
        mirror[hard] = 0.12 * wetness * puddle[hard]
        normal[:, 0] = 0.05 * grain * (zone == ASPHALT)
    return Looks(albedo, normal, mirror, np.zeros_like(albedo))


def solid_looks(primitives: Primitives, which: np.ndarray, points: np.ndarray, local: np.ndarray, normal: np.ndarray,
                distance: np.ndarray, lamps: float) -> Looks:
    """Appearance of points on primitives.

    Args:
        primitives: All primitives.
        which: Primitive of each point, (N,).
        points: Ego coordinates, (N, 3).
        local: Canonical coordinates, (N, 3).
        normal: Geometric unit normals, (N, 3).
        distance: Distance from the camera, (N,).
        lamps: How brightly lamps and windows are lit.
    """
    albedo = primitives.colour[which].astype(np.float32)
    looks = Looks(albedo, normal.astype(np.float32), np.zeros(len(which), np.float32), np.zeros_like(albedo))
    material = primitives.material[which]
    size = np.sqrt((primitives.axes ** 2).sum(2))[which]
    for code, rule in _RULES.items():
        here = np.flatnonzero(material == code)
        if len(here):
            rule(looks, here, _Spots(points[here], local[here] * size[here], size[here],
                                     primitives.style[which[here]], distance[here], lamps))
    return looks


@dataclass(frozen=True)
class _Spots:
    """Points of one material: ego coordinates, offsets from the primitive's centre along its axes in metres, its half
    lengths and style, (M, 3) each; distances from the camera (M,); how brightly lamps are lit."""

    points: np.ndarray
    metres: np.ndarray
    size: np.ndarray
    style: np.ndarray
    distance: np.ndarray
    lamps: float


def _matte(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    looks.albedo[here] *= (0.86 + 0.28 * fractal(at.points * 6, 2, 1))[:, None]


def _paint(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    looks.albedo[here] *= 0.85
    looks.mirror[here] = 0.06


def _metal(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    looks.mirror[here] = 0.12


def _glass(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    looks.albedo[here] *= 0.8
    looks.mirror[here] = 0.16


def _leaves(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    far = np.clip(at.distance / 60, 0, 1)[:, None]
    coarse = fractal(at.points * 1.7, 2, 2)
    fine = fractal(at.points * 9, 3, 3)[:, None] * (1 - far) + 0.5 * far
    looks.albedo[here] *= (0.4 + 0.65 * coarse)[:, None] * np.clip(3.2 * fine - 0.75, 0.15, 1.9)
    bump = np.stack([fractal(at.points * 6, 2, seed) - 0.5 for seed in (4, 5, 6)], 1)
    bent = looks.normal[here] + 2.4 * bump * (1 - 0.7 * far)
    looks.normal[here] = bent / np.linalg.norm(bent, axis=1, keepdims=True)


def _bark(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    looks.albedo[here] *= (0.6 + 0.8 * fractal(at.points * (14, 14, 2.5), 2, 7))[:, None]


def _roof(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    rows = np.mod(at.points[:, 2] / 0.22, 1)
    fade = np.clip(1 - at.distance / 40, 0, 1)
    looks.albedo[here] *= (0.8 + 0.35 * fractal(at.points * 1.3, 2, 8) - 0.3 * (rows < 0.25) * fade)[:, None]


def _facade(looks: Looks, here: np.ndarray, at: _Spots) -> None:
    """Storeys of windows with frames and sills; shop windows and doors below; some windows lit."""
    normal = looks.normal[here]
    metres, size, style = at.metres, at.size, at.style
    sideways = np.abs(metres[:, 0] / size[:, 0]) > np.abs(metres[:, 1] / size[:, 1])
    along = np.where(sideways, metres[:, 1] + size[:, 1], metres[:, 0] + size[:, 0])
    width = np.where(sideways, size[:, 1], size[:, 0]) * 2
    height = metres[:, 2] + size[:, 2]
    bay = width / np.maximum(np.round(width / style[:, 0]), 1)
    column, storey = np.floor(along / bay), np.floor(height / style[:, 1])
    u, v = along / bay - column, height / style[:, 1] - storey
    cells = np.stack([column + 40 * sideways, storey, style[:, 2]], 1).astype(np.int64)
    luck, lit = cell_noise(cells, 1), cell_noise(cells, 2)
    house = cell_noise(np.stack([style[:, 2], style[:, 2] * 0, style[:, 2] * 0], 1).astype(np.int64), 3)
    upright = np.abs(normal[:, 2]) < 0.5
    whole = height + style[:, 1] * (1 - v) <= 2 * size[:, 2] + 0.05
    shop = (storey == 0) & (house < 0.55)
    door = (storey == 0) & ~shop & (luck < 0.25)
    left = np.where(shop, 0.07, np.where(door, 0.34, 0.2 + 0.08 * (house - 0.5)))
    low = np.where(shop, 0.14, np.where(door, 0.0, 0.3))
    high = np.where(shop, 0.74, np.where(door, 0.72, 0.8))
    inside = upright & whole & (np.abs(u - 0.5) < 0.5 - left) & (v > low) & (v < high)
    rim = 0.035
    pane = inside & (np.abs(u - 0.5) < 0.5 - left - rim) & (v > low + rim) & (v < high - rim)
    pane &= ~((np.abs(u - 0.5) < 0.018) & ~door)
    fade = np.clip(1 - at.distance / 30, 0, 1)
    bricks = (np.mod(height / 0.16, 1) < 0.16) * 0.22 * fade * (house > 0.4)
    albedo = looks.albedo[here] * (0.84 + 0.3 * fractal(at.points * 0.8, 3, 9) - bricks)[:, None]
    albedo *= (0.8 + 0.2 * np.clip(height / 1.2, 0, 1))[:, None]
    sill = upright & whole & ~shop & ~door & (np.abs(u - 0.5) < 0.54 - left) & (v > low - 0.05) & (v <= low)
    albedo[sill] = albedo[sill] * 0.5 + 0.25
    frame = inside & ~pane
    albedo[frame] = np.where(house[frame] < 0.7, 0.55, 0.12)[:, None]
    albedo[pane] = (np.where(luck < 0.3, 0.16, 0.03) + 0.05 * (v > 0.6))[pane, None]
    wood = pane & door
    albedo[wood] = np.array([0.11, 0.06, 0.035])
    looks.albedo[here] = albedo
    mirror = np.zeros(len(here), np.float32)
    mirror[pane & ~door] = 0.2
    looks.mirror[here] = mirror
    burning = pane & ~door & (lit < 0.42 * at.lamps ** 0.7) & (at.lamps > 0.3)
    looks.glow[here[burning]] = np.array([1.0, 0.68, 0.32]) * (at.lamps * (0.35 + 0.6 * luck[burning]))[:, None]


def _lamp(colour: tuple[float, float, float], strength: float) -> Callable[[Looks, np.ndarray, _Spots], None]:
    def rule(looks: Looks, here: np.ndarray, at: _Spots) -> None:
        looks.glow[here] = np.array(colour, np.float32) * (strength * at.lamps)
        looks.mirror[here] = 0.1
    return rule


_RULES = {
    m.MATTE: _matte, m.PAINT: _paint, m.METAL: _metal, m.GLASS: _glass, m.LEAVES: _leaves, m.BARK: _bark,
    m.ROOF: _roof, m.FACADE: _facade, m.HEADLAMP: _lamp((1.0, 0.93, 0.78), 5.0),
    m.TAILLAMP: _lamp((1.0, 0.04, 0.03), 2.2), m.LAMP: _lamp((1.0, 0.8, 0.5), 6.0)}
