"""A room: what stands where, drawn from a seed. Nothing here knows about points or files.

Frame: right-handed, metres, z up, origin on the floor in the room's middle; x and y run along the walls.
"""

from dataclasses import dataclass

import numpy as np

from ..toytown.draw import Draw, sincos
from ..toytown.geometry import Parts, Primitives
from ..toytown.labels import SPLITS
from ..toytown.materials import MATTE
from ..toytown.scene import SceneObject
from .furniture import BUILDERS, FLOOR, KINDS, WALL, floor_colour, wall_colour

_QUARTER = 1.5707963268
_THICK = 0.1  # of walls and floor, metres
_GAP = 0.04  # at least between two pieces, metres

# What a room of each use holds for sure, and what else it may hold.
USES = {
    'bedroom': (('bed', 'night_stand', 'cabinet'), ('night_stand', 'bookshelf', 'desk', 'chair', 'garbagebin')),
    'living': (('sofa', 'table', 'bookshelf'), ('sofa', 'cabinet', 'chair', 'chair', 'table', 'garbagebin')),
    'office': (('desk', 'chair', 'bookshelf'), ('desk', 'chair', 'cabinet', 'garbagebin', 'table', 'bookshelf')),
    'dining': (('table', 'chair', 'chair', 'chair'), ('chair', 'cabinet', 'sofa', 'bookshelf', 'garbagebin'))}
_AGAINST_WALL = ('cabinet', 'bed', 'sofa', 'desk', 'bookshelf', 'night_stand')
_ON_TOP = {'cabinet': ('television', 'lamp', 'box'), 'table': ('box', 'lamp', 'box'), 'desk': ('television', 'lamp'),
           'night_stand': ('lamp', 'box'), 'bed': ('pillow',), 'sofa': ('pillow',)}


@dataclass(frozen=True)
class Room:
    """Everything that a scanner or a camera can see.

    Args:
        key: ``(seed, split, index)``, from which the room was drawn.
        size: Length along x, length along y and height, metres.
        objects: Furniture and what lies on it; they own the first bodies of ``primitives``, in this order.
        support: For each object the index of the one it lies on, -1 for the floor.
        primitives: Objects, then the floor, then the four walls; boxes only.
        semantic: NYU's class of each body, int64 (B,).
    """

    key: tuple[int, int, int]
    size: tuple[float, float, float]
    objects: tuple[SceneObject, ...]
    support: tuple[int, ...]
    primitives: Primitives
    semantic: np.ndarray

    def bounds(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (3,) of the tight box along the axes around an object."""
        return body_bounds(self.primitives, index)


def body_bounds(primitives: Primitives, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (3,) of the tight box along the axes around a body made of boxes."""
    rows = slice(primitives.first[body], primitives.first[body + 1])
    reach = np.abs(primitives.axes[rows]).sum(1)
    return (primitives.centre[rows] - reach).min(0), (primitives.centre[rows] + reach).max(0)


def sample_room(seed: int, split: str, index: int) -> Room:
    """Draw a room with 3 to 12 pieces of furniture; splits of one seed share no room.

    Args:
        seed: Seed of the data set.
        split: ``train``, ``val`` or ``test``.
        index: Number of the room in its split.
    """
    key = (seed, SPLITS.index(split), index)
    draw = Draw(*key, 10)
    size = draw.uniform(3.4, 6.2), draw.uniform(3.2, 5.4), draw.uniform(2.4, 2.8)
    certain, possible = USES[draw.pick(tuple(USES))]
    wanted = [*certain, *(draw.pick(possible) for _ in range(draw.integer(1, 9)))][:12]
    objects: list[SceneObject] = []
    footprints: list[np.ndarray] = []
    for category in [*wanted, *['garbagebin'] * 3]:
        if len(objects) >= len(wanted):
            break
        parts = BUILDERS[category](draw)
        for _ in range(30):
            item = SceneObject(category, parts, *_place(draw, category, parts, size, objects))
            area = _footprint(item)
            inside = (np.abs(area) <= np.array(size[:2]) / 2 - 0.01).all()
            if inside and not any(_overlap(area, other) for other in footprints):
                objects.append(item)
                footprints.append(area)
                break
    objects, support = _add_clutter(draw, objects)
    shell = _shell(draw, size)
    bodies = [(item.parts, item.position, item.yaw) for item in objects] + [(part, (0, 0, 0), 0.0) for part in shell]
    semantic = [KINDS[item.category].scannet for item in objects] + [FLOOR, *[WALL] * 4]
    return Room(key, size, tuple(objects), tuple(support), Primitives.place(bodies), np.array(semantic))


def _place(draw: Draw, category: str, parts: Parts, size: tuple[float, float, float],
           objects: list[SceneObject]) -> tuple[tuple[float, float, float], float]:
    """Propose a position and a yaw: at a wall, at a table, or anywhere."""
    low, high = parts.bounds()
    hosts = [item for item in objects if item.category in ('table', 'desk')]
    if category == 'chair' and hosts and draw.chance(0.8):
        return _beside(draw, draw.pick(hosts), float(high[0]))
    if category in _AGAINST_WALL:
        side = draw.integer(0, 3)
        yaw = side * _QUARTER
        back = size[side % 2] / 2 - draw.uniform(0.02, 0.08) + low[0]  # how far the origin is from the middle
        free = size[1 - side % 2] / 2 - max(-low[1], high[1]) - 0.02
        along = draw.uniform(-free, free)
        sine, cosine = sincos(yaw)
        return (-cosine * back - sine * along, -sine * back + cosine * along, 0.0), yaw
    x, y = (draw.uniform(-edge / 2, edge / 2) for edge in size[:2])
    yaw = draw.integer(0, 3) * _QUARTER
    if category == 'chair' or category == 'table' and draw.chance(0.25):
        yaw += draw.uniform(-0.6, 0.6)
    return (x, y, 0.0), yaw


def _beside(draw: Draw, host: SceneObject, front: float) -> tuple[tuple[float, float, float], float]:
    """A chair that faces a table, at any of its sides, or a desk, at its front."""
    low, high = host.parts.bounds()
    side = 0 if host.category == 'desk' else draw.integer(0, 3)
    half, across = (high[0], high[1]) if side % 2 == 0 else (high[1], high[0])
    away = float(half) + front + draw.uniform(0.05, 0.2)
    along = draw.uniform(-0.6, 0.6) * float(across)
    sine, cosine = sincos(host.yaw + side * _QUARTER)
    x, y = host.position[0] + cosine * away - sine * along, host.position[1] + sine * away + cosine * along
    return (x, y, 0.0), host.yaw + side * _QUARTER + 2 * _QUARTER + draw.uniform(-0.25, 0.25)


def _footprint(item: SceneObject) -> np.ndarray:
    """Lower and upper corner (2, 2) of the rectangle along the walls around an object."""
    low, high = body_bounds(Primitives.place([(item.parts, item.position, item.yaw)]), 0)
    return np.array([low[:2], high[:2]])


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[0] < other[1] + _GAP).all() and (other[0] < one[1] + _GAP).all())


def _add_clutter(draw: Draw, objects: list[SceneObject]) -> tuple[list[SceneObject], list[int]]:
    """Put small things on some pieces."""
    found, support = list(objects), [-1] * len(objects)
    for index, host in enumerate(objects):
        if host.category not in _ON_TOP or not draw.chance(0.6):
            continue
        category = draw.pick(_ON_TOP[host.category])
        parts = BUILDERS[category](draw)
        low, high = host.parts.bounds()
        mine = parts.bounds()[1]
        x = draw.uniform(-0.4, 0.4) * max(float(high[0] - low[0]) - 2 * float(mine[0]), 0.0)
        y = draw.uniform(-0.4, 0.4) * max(float(high[1] - low[1]) - 2 * float(mine[1]), 0.0)
        level = _top(host.parts, x, y)
        sine, cosine = sincos(host.yaw)
        position = (host.position[0] + cosine * x - sine * y, host.position[1] + sine * x + cosine * y, level)
        found.append(SceneObject(category, parts, position, host.yaw + draw.uniform(-0.2, 0.2)))
        support.append(index)
    return found, support


def _top(parts: Parts, x: float, y: float) -> float:
    """Height of the highest surface of upright boxes above a point of their frame."""
    rows = parts.table()[1]
    reach = np.abs(rows[:, 3:12].reshape(-1, 3, 3)).sum(1)
    over = (np.abs(rows[:, 0] - x) <= reach[:, 0]) & (np.abs(rows[:, 1] - y) <= reach[:, 1])
    return float((rows[:, 2] + reach[:, 2])[over].max(initial=0.0))


def _shell(draw: Draw, size: tuple[float, float, float]) -> list[Parts]:
    """Floor and walls; their inner faces lie at the room's size."""
    length, width, height = size
    paint, floor = wall_colour(draw), floor_colour(draw)
    bodies = [Parts() for _ in range(5)]
    bodies[0].box((0, 0, -_THICK / 2), (length, width, _THICK), floor, MATTE)
    for index, (x, y) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1)), 1):
        place = (x * (length + _THICK) / 2, y * (width + _THICK) / 2, height / 2)
        edges = (_THICK, width, height) if x else (length, _THICK, height)
        bodies[index].box(place, edges, paint, MATTE)
    return bodies
