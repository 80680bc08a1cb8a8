"""What stands beside the road: buildings, houses, trees, hedges, lamps and signs, and the skyline far away."""

import math
from collections.abc import Callable

from . import materials as m
from .draw import Draw, sincos
from .geometry import Parts
from .labels import BUILDING, IGNORE, VEGETATION
from .road import Road

SIDES = ('city', 'suburb', 'park')
REACH = 85.0  # metres ahead up to which surroundings are built one by one

Placed = tuple[Parts, tuple[float, float, float], float, int]


def sample_scenery(draw: Draw, road: Road, sides: tuple[str, str], keep_clear: list[tuple[float, float]]
                   ) -> list[Placed]:
    """Draw everything beside the road.

    Args:
        draw: Source of randomness.
        road: The road.
        sides: Kind of the (left, right) side: one of SIDES.
        keep_clear: Ego positions (x, y) of pedestrians and parked things, in which no trunk or pole may stand.

    Returns:
        Bodies as ``(parts, position, yaw, semantic class)``.
    """
    placed = _skyline(draw, road)
    for index, sign in ((0, 1), (1, -1)):
        kerb = abs(road.left if sign > 0 else road.right)
        front = kerb + 0.18 + road.pavement[index]
        side = sides[index]
        if side == 'city':
            placed += _row(draw, road, sign, front + draw.pick((0.05, 0.05, 1.5)), city_building, (9, 19), (0, 0.02))
        elif side == 'suburb':
            placed += _row(draw, road, sign, front + draw.uniform(3, 7), house, (8, 12), (3, 9))
            if draw.chance(0.5):
                placed += _row(draw, road, sign, front + 0.5, hedge, (3, 8), (0.3, 5))
        else:
            placed += _row(draw, road, sign, front + draw.uniform(1, 4), grove, (4, 7), (1, 6))
            placed += _row(draw, road, sign, front + draw.uniform(9, 15), grove, (5, 8), (0, 2))
            placed += _row(draw, road, sign, front + draw.uniform(20, 30), city_building, (12, 20), (4, 20))
        if side != 'park' and draw.chance(0.65):
            placed += _along(draw, road, sign, kerb + draw.uniform(0.6, 0.9), draw.uniform(8, 15), tree, VEGETATION,
                             keep_clear)
        if draw.chance(0.75):
            placed += _along(draw, road, sign, kerb + 0.5, draw.uniform(18, 30), lamp, IGNORE, keep_clear)
        placed += _along(draw, road, sign, kerb + 0.45, draw.uniform(20, 45), road_sign, IGNORE, keep_clear)
    return placed


def city_building(draw: Draw, length: float) -> Parts:
    """A block of 2 to 6 storeys; the side at -y faces the road."""
    parts = Parts()
    storey, depth = draw.uniform(3.0, 3.5), draw.uniform(9, 14)
    height = storey * draw.integer(2, 6) + draw.uniform(0.6, 1.0)
    wall = m.shade(draw.pick(m.WALLS), draw.uniform(0.8, 1.1))
    bay = length / max(2, round(length / draw.uniform(2.0, 3.2)))
    style = (bay, storey, float(draw.integer(0, 9999)))
    y = depth / 2
    parts.box((0, y, height / 2), (length, depth, height), wall, m.FACADE, style)
    trim = m.shade(wall, draw.pick((0.65, 1.25)))
    parts.box((0, y, height + 0.12), (length + 0.3, depth + 0.5, 0.32), trim, m.MATTE)
    if draw.chance(0.6):
        parts.box((0, y, storey + 0.1), (length + 0.02, depth + 0.24, 0.22), trim, m.MATTE)
    if draw.chance(0.45):
        width = draw.uniform(0.45, 0.8) * length
        x = draw.uniform(-0.5, 0.5) * (length - width)
        parts.add(0, (x, -0.5, storey - 0.55), ((width / 2, 0, 0), (0, 0.5, 0.16), (0, 0, 0.03)),
                  draw.pick(m.STRIPES), m.MATTE)
    if draw.chance(0.4):
        for floor in range(1, int(height / storey)):
            parts.box((bay * draw.integer(-1, 1), -0.4, floor * storey + 0.35), (bay * 0.9, 0.9, 0.7),
                      m.shade(wall, 0.7), m.MATTE)
    if draw.chance(0.4):
        parts.gable((0, y, height + 0.28), length, depth, draw.uniform(2, 3.5), draw.pick(m.ROOFS), m.ROOF)
    else:
        parts.box((draw.uniform(-0.3, 0.3) * length, y, height + 0.9), (2.5, 2.5, 1.6), m.shade(wall, 0.8), m.MATTE)
    return parts


def house(draw: Draw, length: float) -> Parts:
    """A detached house with a gable roof."""
    parts = Parts()
    storey, depth = draw.uniform(2.7, 3.0), draw.uniform(7.5, 10)
    height = storey * draw.integer(1, 2) + 0.4
    wall, roof = m.shade(draw.pick(m.WALLS), draw.uniform(0.9, 1.15)), draw.pick(m.ROOFS)
    bay = length / max(3, round(length / 2.4))
    y = depth / 2
    parts.box((0, y, height / 2), (length, depth, height), wall, m.FACADE, (bay, storey, float(draw.integer(0, 9999))))
    rise = draw.uniform(2.0, 3.4)
    parts.gable((0, y, height - 0.05), length + 0.9, depth + 1.2, rise, roof, m.ROOF)
    parts.box((draw.uniform(-0.3, 0.3) * length, y + 1.0, height + rise * 0.8), (0.7, 0.7, 1.6), m.ROOFS[0], m.MATTE)
    if draw.chance(0.5):
        parts.box((draw.uniform(-0.25, 0.25) * length, -0.7, 1.25), (2.6, 1.4, 2.5), m.shade(wall, 1.1), m.MATTE)
    return parts


def tree(draw: Draw) -> Parts:
    """A tree 5 to 10 m tall: round, slender or a conifer."""
    parts = Parts()
    kind = draw.pick(('round', 'slender', 'conifer'), (6, 2, 2))
    leaf = draw.pick(m.AUTUMN) if kind == 'round' and draw.chance(0.1) else draw.pick(m.LEAF)
    leaf = m.shade(leaf, draw.uniform(0.8, 1.15))
    bark = m.rgb(draw.pick(('4a3a2c', '5c4a38', '6a5c4e')))
    if kind == 'conifer':
        height = draw.uniform(5, 9)
        parts.rod((0, 0, 0), (0, 0, height * 0.6), 0.14, bark, m.BARK)
        for layer in range(7):
            part = layer / 7
            radius = (1 - part) * height * 0.24 + 0.2
            parts.ellipsoid((0, 0, 1.1 + part * (height - 1.4)), (radius, radius, height * 0.12),
                            m.shade(leaf, 0.7 + 0.06 * layer), m.LEAVES)
        return parts
    trunk = draw.uniform(2.3, 3.2)
    size = draw.uniform(1.3, 2.1)
    top = trunk + size
    parts.rod((0, 0, 0), (0, 0, top), draw.uniform(0.12, 0.22), bark, m.BARK)
    for _ in range(2):
        parts.rod((0, 0, trunk * 0.8), (draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8), top), 0.07, bark, m.BARK)
    stretch = 1.9 if kind == 'slender' else 1.0
    spread = 0.55 if kind == 'slender' else 1.0
    parts.ellipsoid((0, 0, trunk + size * stretch * 0.8), (size * spread, size * spread, size * stretch * 0.85), leaf,
                    m.LEAVES)
    for blob in range(11):
        sine, cosine = sincos(blob * 2.399963)
        level = (blob + 0.5) / 11 * 2 - 1
        ring = math.sqrt(1 - level * level) * size * spread * draw.uniform(0.75, 1.0)
        radius = size * draw.uniform(0.36, 0.58)
        parts.ellipsoid((cosine * ring, sine * ring, trunk + size * stretch * (0.85 + 0.75 * level)),
                        (radius, radius, radius * 0.85), m.shade(leaf, draw.uniform(0.8, 1.2)), m.LEAVES)
    return parts


def grove(draw: Draw, length: float) -> Parts:
    """A tree with a bush beside it."""
    parts = tree(draw)
    for _ in range(draw.integer(0, 2)):
        radius = draw.uniform(0.5, 1.1)
        parts.ellipsoid((draw.uniform(-0.5, 0.5) * length, draw.uniform(-1, 2), radius * 0.5),
                        (radius * 1.3, radius, radius), m.shade(draw.pick(m.LEAF), 0.85), m.LEAVES)
    return parts


def hedge(draw: Draw, length: float) -> Parts:
    """A clipped hedge."""
    parts = Parts()
    parts.box((0, 0.4, 0.5), (length, 0.8, draw.uniform(0.9, 1.3)), m.shade(draw.pick(m.LEAF), 0.8), m.LEAVES)
    return parts


def lamp(draw: Draw) -> Parts:
    """A street lamp; its arm points to -y, over the road."""
    parts = Parts()
    height = draw.uniform(5.5, 7.5)
    grey = m.rgb(draw.pick(('55595c', '2f3436', '7b8084')))
    parts.rod((0, 0, 0), (0, 0, height), 0.075, grey, m.METAL)
    parts.rod((0, 0, 0), (0, 0, 0.9), 0.12, grey, m.METAL)
    parts.rod((0, 0, height), (0, -1.7, height + 0.25), 0.05, grey, m.METAL)
    parts.box((0, -1.75, height + 0.22), (0.28, 0.65, 0.14), m.LAMP_WHITE, m.LAMP)
    return parts


def road_sign(draw: Draw) -> Parts:
    """A round, square or high traffic sign; its face points to -x."""
    parts = Parts()
    height = draw.uniform(2.1, 2.6)
    parts.rod((0, 0, 0), (0, 0, height + 0.3), 0.035, m.rgb('8d9295'), m.METAL)
    colour = draw.pick(m.SIGNS)
    if draw.chance(0.6):
        parts.rod((-0.05, 0, height), (-0.08, 0, height), 0.34, colour, m.MATTE)
        parts.rod((-0.06, 0, height), (-0.09, 0, height), 0.24, m.WHITE, m.MATTE)
    else:
        parts.box((-0.06, 0, height), (0.03, 0.6, 0.6), m.WHITE, m.MATTE)
        parts.box((-0.07, 0, height), (0.03, 0.52, 0.52), colour, m.MATTE)
    return parts


def _row(draw: Draw, road: Road, sign: int, offset: float, build: Callable[[Draw, float], Parts],
         lengths: tuple[float, float], gaps: tuple[float, float]) -> list[Placed]:
    """Bodies side by side along the road, their fronts ``offset`` from the ego lane's middle."""
    placed, x = [], draw.uniform(-14, -4)
    semantic = BUILDING if build in (city_building, house) else VEGETATION
    while x < REACH:
        length = draw.uniform(*lengths)
        middle = x + length / 2
        yaw = road.heading(middle) + (0.0 if sign > 0 else 3.141592654)
        position = (middle, road.middle(middle) + sign * offset, 0.0)
        placed.append((build(draw, length), position, yaw, semantic))
        x += length + draw.uniform(*gaps)
    return placed


def _along(draw: Draw, road: Road, sign: int, offset: float, step: float, build: Callable[[Draw], Parts],
           semantic: int, keep_clear: list[tuple[float, float]]) -> list[Placed]:
    """Single bodies at regular steps along the kerb, left out where they would stand in somebody's way."""
    placed, x = [], draw.uniform(5, 5 + step)
    while x < REACH:
        y = road.middle(x) + sign * offset
        if all(abs(x - other[0]) > 1.2 or abs(y - other[1]) > 1.0 for other in keep_clear):
            faces_traffic = build is road_sign
            yaw = road.heading(x) + (0.0 if sign > 0 or faces_traffic else 3.141592654)
            placed.append((build(draw), (x, y, 0.0), yaw, semantic))
        x += step * draw.uniform(0.85, 1.15)
    return placed


def _skyline(draw: Draw, road: Road) -> list[Placed]:
    """Hills and distant buildings and trees that close the horizon."""
    placed: list[Placed] = []
    for _ in range(draw.integer(2, 4)):
        hill = Parts()
        hill.ellipsoid((0, 0, 0), (60, draw.uniform(90, 200), draw.uniform(10, 26)), m.shade(draw.pick(m.LEAF), 0.7),
                       m.LEAVES)
        placed.append((hill, (draw.uniform(330, 420), draw.uniform(-260, 260), 0.0), 0.0, VEGETATION))
    y = -150.0
    while y < 150:
        x, width = draw.uniform(105, 160), draw.uniform(10, 24)
        if abs(y - road.middle(x)) > 9:
            if draw.chance(0.6):
                block = Parts()
                storey = 3.2
                height = storey * draw.integer(2, 8)
                block.box((0, 0, height / 2), (12, width, height), draw.pick(m.WALLS), m.FACADE,
                          (2.6, storey, float(draw.integer(0, 9999))))
                placed.append((block, (x, y, 0.0), 0.0, BUILDING))
            else:
                wood = Parts()
                for _ in range(9):
                    radius = draw.uniform(1.8, 4)
                    wood.ellipsoid((draw.uniform(-4, 4), draw.uniform(-0.5, 0.5) * width, radius * 0.7),
                                   (radius, radius, radius), draw.pick(m.LEAF), m.LEAVES)
                placed.append((wood, (x, y, 0.0), 0.0, VEGETATION))
        y += width * draw.uniform(0.6, 1.0)
    return placed
