"""Furniture and what lies on it, made of boxes, each in its own frame: front along x, middle over the origin."""

from dataclasses import dataclass

from ..toytown.draw import Draw
from ..toytown.geometry import Parts
from ..toytown.materials import MATTE, Colour, rgb, shade

WOOD = tuple(map(rgb, ('8a5a32', 'a9764a', 'c79a68', '5e3d26', 'd9c2a0', 'e8e4dc', '3b2c22')))
CLOTH = tuple(map(rgb, ('6b7480', '9c3b34', '3f5d7d', '5a6b46', 'b59b74', '33343a', '8a5f7d', 'cfc6b4')))
PLASTIC = tuple(map(rgb, ('2b2d31', 'b8bcc0', '44688f', 'c8c2b4', '7a2e2a')))
LINEN = tuple(map(rgb, ('f0ece2', 'cfd8e2', 'd8c4b4', '9fb0c4', 'b4c8b0')))
BOOKS = tuple(map(rgb, ('8c2f2b', '2f4f7a', '3f6b46', 'c2a14a', '5b3a6b', '2c2c30', 'b8653a')))
BLACK, WHITE = rgb('16171a'), rgb('efece4')


@dataclass(frozen=True)
class Kind:
    """What a category is called where.

    Args:
        scannet: Its number among NYU's 40 classes, which ScanNet's semantic masks hold.
        sunrgbd: Its class in SUN RGB-D's detection benchmark, empty if it has none.
    """

    scannet: int
    sunrgbd: str = ''


KINDS = {
    'cabinet': Kind(3, 'dresser'), 'bed': Kind(4, 'bed'), 'chair': Kind(5, 'chair'), 'sofa': Kind(6, 'sofa'),
    'table': Kind(7, 'table'), 'bookshelf': Kind(10, 'bookshelf'), 'desk': Kind(14, 'desk'),
    'night_stand': Kind(32, 'night_stand'), 'garbagebin': Kind(39), 'pillow': Kind(18), 'television': Kind(25),
    'box': Kind(29), 'lamp': Kind(35)}
WALL, FLOOR = 1, 2


def cabinet(draw: Draw) -> Parts:
    """A dresser or sideboard with drawers."""
    parts, colour = Parts(), draw.pick(WOOD)
    width, depth, height = draw.uniform(0.6, 1.4), draw.uniform(0.4, 0.58), draw.uniform(0.7, 1.3)
    parts.box((0, 0, height / 2), (depth, width, height), colour, MATTE)
    rows, columns = draw.integer(2, 4), 2 if width > 0.95 else 1
    for row in range(rows):
        for column in range(columns):
            size = (0.02, width / columns - 0.04, height / rows - 0.04)
            y, z = (column + 0.5) * width / columns - width / 2, (row + 0.5) * height / rows
            parts.box((depth / 2 + 0.01, y, z), size, shade(colour, 0.85), MATTE)
            parts.box((depth / 2 + 0.03, y, z), (0.02, 0.1, 0.02), BLACK, MATTE)
    return parts


def bed(draw: Draw) -> Parts:
    """A bed; its head stands at the back."""
    parts, wood = Parts(), draw.pick(WOOD)
    length, width, seat = draw.uniform(1.95, 2.15), draw.uniform(0.9, 1.8), draw.uniform(0.42, 0.6)
    parts.box((0, 0, 0.2), (length, width, 0.2), wood, MATTE)
    for x in (-length / 2 + 0.05, length / 2 - 0.05):
        for y in (-width / 2 + 0.05, width / 2 - 0.05):
            parts.box((x, y, 0.05), (0.08, 0.08, 0.1), wood, MATTE)
    parts.box((0.02, 0, (0.3 + seat) / 2), (length - 0.06, width - 0.04, seat - 0.3), WHITE, MATTE)
    cover = draw.uniform(0.55, 0.75)
    parts.box((length / 2 - cover * length / 2, 0, seat), (cover * length, width + 0.02, 0.04), draw.pick(LINEN), MATTE)
    parts.box((-length / 2 - 0.02, 0, seat), (0.05, width, 2 * seat - draw.uniform(0, 0.2)), wood, MATTE)
    return parts


def chair(draw: Draw) -> Parts:
    """A chair with four legs or, as in offices, one; sometimes with arms."""
    parts, colour = Parts(), draw.pick(WOOD + CLOTH)
    width, depth, seat, top = (draw.uniform(0.4, 0.52), draw.uniform(0.4, 0.5), draw.uniform(0.42, 0.48),
                               draw.uniform(0.8, 1.0))
    parts.box((0, 0, seat - 0.025), (depth, width, 0.05), colour, MATTE)
    parts.box((-depth / 2 + 0.02, 0, (seat + top) / 2 + 0.05), (0.04, width * 0.95, top - seat - 0.1), colour, MATTE)
    if draw.chance(0.3):
        parts.box((0, 0, seat / 2), (0.06, 0.06, seat - 0.04), BLACK, MATTE)
        for turn in (0.0, 1.0471976, 2.0943951):
            parts.box((0, 0, 0.04), (depth + 0.06, 0.05, 0.05), BLACK, MATTE, turn=turn)
        parts.box((-depth / 2 + 0.01, 0, seat + 0.05), (0.03, 0.08, 0.2), BLACK, MATTE)
    else:
        for x in (-depth / 2 + 0.025, depth / 2 - 0.025):
            for y in (-width / 2 + 0.025, width / 2 - 0.025):
                parts.box((x, y, (seat - 0.05) / 2), (0.04, 0.04, seat - 0.05), shade(colour, 0.7), MATTE)
        for y in (-width / 2 + 0.04, width / 2 - 0.04):
            parts.box((-depth / 2 + 0.02, y, seat + 0.1), (0.03, 0.03, 0.2), shade(colour, 0.7), MATTE)
    if draw.chance(0.3):
        for side in (-1, 1):
            parts.box((0, side * width / 2, seat + 0.2), (depth * 0.8, 0.05, 0.04), shade(colour, 0.8), MATTE)
            parts.box((depth * 0.3, side * width / 2, seat + 0.08), (0.04, 0.04, 0.22), shade(colour, 0.8), MATTE)
    return parts


def sofa(draw: Draw) -> Parts:
    """A sofa for one to three."""
    parts, colour, seats = Parts(), draw.pick(CLOTH), draw.integer(1, 3)
    width, depth = 0.4 + seats * draw.uniform(0.55, 0.65), draw.uniform(0.8, 0.95)
    seat, back, arm = draw.uniform(0.38, 0.45), draw.uniform(0.75, 0.9), draw.uniform(0.12, 0.2)
    parts.box((0, 0, 0.05 + (seat - 0.12) / 2), (depth, width, seat - 0.17), shade(colour, 0.85), MATTE)
    for index in range(seats):
        share = (width - 2 * arm) / seats
        y = (index + 0.5) * share - width / 2 + arm
        parts.box((0.08, y, seat - 0.06), (depth - 0.2, share - 0.02, 0.14), colour, MATTE)
        parts.box((-depth / 2 + 0.24, y, (seat + back) / 2), (0.14, share - 0.04, back - seat - 0.04), colour, MATTE)
    parts.box((-depth / 2 + 0.09, 0, back / 2 + 0.02), (0.18, width, back - 0.04), shade(colour, 0.9), MATTE)
    for side in (-1, 1):
        parts.box((0, side * (width - arm) / 2, 0.32), (depth, arm, 0.6), shade(colour, 0.9), MATTE)
        for x in (-depth / 2 + 0.06, depth / 2 - 0.06):
            parts.box((x, side * (width / 2 - 0.06), 0.025), (0.06, 0.06, 0.05), BLACK, MATTE)
    return parts


def table(draw: Draw) -> Parts:
    """A dining table or a low one."""
    parts, colour = Parts(), draw.pick(WOOD)
    low = draw.chance(0.35)
    length, width = draw.uniform(0.8, 1.2 if low else 1.8), draw.uniform(0.5, 0.7 if low else 1.0)
    height = draw.uniform(0.35, 0.48) if low else draw.uniform(0.7, 0.78)
    parts.box((0, 0, height - 0.02), (width, length, 0.04), colour, MATTE)
    leg, inset = draw.uniform(0.04, 0.08), draw.uniform(0.03, 0.1)
    tall = height - 0.04
    for x in (-1, 1):
        for y in (-1, 1):
            parts.box((x * (width / 2 - inset), y * (length / 2 - inset), tall / 2), (leg, leg, tall),
                      shade(colour, 0.8), MATTE)
    if low:
        parts.box((0, 0, 0.12), (width - 2 * inset, length - 2 * inset, 0.02), colour, MATTE)
    return parts


def desk(draw: Draw) -> Parts:
    """A desk with a drawer block; one sits at its front."""
    parts, colour = Parts(), draw.pick(WOOD)
    width, depth, height = draw.uniform(1.0, 1.6), draw.uniform(0.55, 0.75), draw.uniform(0.71, 0.76)
    parts.box((0, 0, height - 0.02), (depth, width, 0.04), colour, MATTE)
    side = draw.pick((-1, 1))
    y = side * (width / 2 - 0.22)
    parts.box((0, y, (height - 0.04) / 2), (depth - 0.06, 0.4, height - 0.04), shade(colour, 0.85), MATTE)
    for drawer in range(3):
        parts.box((depth / 2 - 0.02, y, 0.14 + 0.21 * drawer), (0.02, 0.36, 0.18), colour, MATTE)
    parts.box((0, -side * (width / 2 - 0.02), (height - 0.04) / 2), (depth - 0.06, 0.03, height - 0.04),
              shade(colour, 0.85), MATTE)
    parts.box((-depth / 2 + 0.02, 0, height - 0.22), (0.02, width - 0.04, 0.36), shade(colour, 0.85), MATTE)
    return parts


def bookshelf(draw: Draw) -> Parts:
    """An open shelf, partly filled with books."""
    parts, colour = Parts(), draw.pick(WOOD)
    width, depth, height = draw.uniform(0.7, 1.2), draw.uniform(0.26, 0.4), draw.uniform(1.5, 2.1)
    for side in (-1, 1):
        parts.box((0, side * (width / 2 - 0.015), height / 2), (depth, 0.03, height), colour, MATTE)
    parts.box((-depth / 2 + 0.01, 0, height / 2), (0.02, width, height), shade(colour, 0.8), MATTE)
    count = draw.integer(4, 6)
    step = (height - 0.03) / count
    for level in range(count + 1):
        z = 0.015 + level * step
        parts.box((0, 0, z), (depth, width - 0.04, 0.03), colour, MATTE)
        if level == count:
            break
        y = -width / 2 + 0.05
        while y < width / 2 - 0.15:
            thick, tall = draw.uniform(0.06, 0.22), draw.uniform(0.55, 0.85) * (step - 0.03)
            if draw.chance(0.7):
                parts.box((0.01, y + thick / 2, z + 0.015 + tall / 2), (depth * 0.65, thick, tall), draw.pick(BOOKS),
                          MATTE)
            y += thick + draw.uniform(0, 0.02)
    return parts


def night_stand(draw: Draw) -> Parts:
    """A bedside table with a drawer above an open shelf."""
    parts, colour = Parts(), draw.pick(WOOD)
    width, depth, height = draw.uniform(0.38, 0.5), draw.uniform(0.35, 0.45), draw.uniform(0.45, 0.6)
    parts.box((0, 0, height - 0.1), (depth, width, 0.2), colour, MATTE)
    parts.box((depth / 2 + 0.01, 0, height - 0.1), (0.02, width * 0.85, 0.14), shade(colour, 0.8), MATTE)
    for side in (-1, 1):
        parts.box((0, side * (width / 2 - 0.01), height / 2 - 0.1), (depth, 0.02, height - 0.2), colour, MATTE)
    parts.box((0, 0, 0.06), (depth, width, 0.02), colour, MATTE)
    return parts


def garbagebin(draw: Draw) -> Parts:
    """An open bin."""
    parts, colour = Parts(), draw.pick(PLASTIC)
    width, height = draw.uniform(0.22, 0.36), draw.uniform(0.28, 0.6)
    parts.box((0, 0, 0.01), (width, width, 0.02), colour, MATTE)
    for side in (-1, 1):
        parts.box((side * (width / 2 - 0.01), 0, height / 2), (0.02, width, height), colour, MATTE)
        parts.box((0, side * (width / 2 - 0.01), height / 2), (width, 0.02, height), shade(colour, 0.9), MATTE)
    return parts


def pillow(draw: Draw) -> Parts:
    """A pillow."""
    parts, colour = Parts(), draw.pick(LINEN + CLOTH)
    parts.box((0, 0, 0.05), (draw.uniform(0.25, 0.4), draw.uniform(0.35, 0.55), 0.1), colour, MATTE)
    return parts


def television(draw: Draw) -> Parts:
    """A screen on a foot."""
    parts = Parts()
    width = draw.uniform(0.45, 0.8)
    parts.box((0, 0, 0.01), (0.18, width * 0.4, 0.02), BLACK, MATTE)
    parts.box((-0.02, 0, 0.08), (0.03, 0.06, 0.14), BLACK, MATTE)
    parts.box((0, 0, 0.08 + width * 0.29), (0.03, width, width * 0.58), shade(BLACK, 0.6), MATTE)
    return parts


def box(draw: Draw) -> Parts:
    """A cardboard box or a small pile of books."""
    parts = Parts()
    for level in range(draw.integer(1, 3)):
        parts.box((0, 0, 0.03 + 0.06 * level), (draw.uniform(0.14, 0.24), draw.uniform(0.18, 0.3), 0.06),
                  draw.pick(BOOKS), MATTE, turn=draw.uniform(-0.2, 0.2))
    return parts


def lamp(draw: Draw) -> Parts:
    """A table lamp."""
    parts = Parts()
    height, colour = draw.uniform(0.35, 0.5), draw.pick(PLASTIC)
    parts.box((0, 0, 0.015), (0.14, 0.14, 0.03), colour, MATTE)
    parts.box((0, 0, height / 2), (0.03, 0.03, height - 0.05), colour, MATTE)
    parts.box((0, 0, height - 0.08), (0.22, 0.22, 0.16), rgb('efe2bc'), MATTE)
    return parts


BUILDERS = {builder.__name__: builder for builder in (cabinet, bed, chair, sofa, table, desk, bookshelf, night_stand,
                                                      garbagebin, pillow, television, box, lamp)}


def wall_colour(draw: Draw) -> Colour:
    """Paint of a room."""
    return draw.pick(tuple(map(rgb, ('e8e2d4', 'd8dde0', 'cfd8c8', 'e4d2c0', 'c8ccd4', 'f0eee8'))))


def floor_colour(draw: Draw) -> Colour:
    """Boards, carpet or tiles."""
    return draw.pick(tuple(map(rgb, ('9a6a3e', '7a5638', 'b08a5e', '6e6a64', '9c9a94', '5a6470'))))
