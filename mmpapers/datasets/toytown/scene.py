"""A Toytown scene: what is where, drawn from a seed. Nothing here knows about pixels' colours or files."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .actors import BUILDERS
from .draw import Draw, sincos
from .geometry import Camera, Parts, Primitives
from .labels import SEMANTIC_OF, SPLITS
from .road import Road, sample_road
from .scenery import SIDES, sample_scenery

WEATHER = ('clear', 'overcast', 'fog', 'rain', 'dusk')
FOCAL = 272 / 320  # focal length over image width: 61 degrees of view

# Metres at which each kind is placed, for the default focal length of 272 pixels: apparent heights of 13 to 75 pixels.
_RANGE = {'car': (6.5, 34.0), 'van': (8.5, 42.0), 'pedestrian': (6.0, 27.0), 'cyclist': (6.0, 29.0)}
_WEIGHTS = {'car': 40, 'van': 17, 'pedestrian': 27, 'cyclist': 18}
_HALF_TURN = 3.141592654


@dataclass(frozen=True)
class Weather:
    """Light and air.

    Args:
        kind: One of WEATHER.
        sun: Unit vector towards the sun in the ego frame.
        visibility: Distance in metres at which contrast has dropped to 1/e.
        wetness: 0 for a dry road, 1 for a wet one.
    """

    kind: str
    sun: tuple[float, float, float]
    visibility: float
    wetness: float


@dataclass(frozen=True)
class SceneObject:
    """A road user.

    Args:
        category: One of the detection classes.
        parts: Its primitives in its own frame.
        position: Its origin on the ground in the ego frame, metres.
        yaw: Heading, radians to the left of the ego x axis, within half a turn.
    """

    category: str
    parts: Parts
    position: tuple[float, float, float]
    yaw: float

    @cached_property
    def box(self) -> tuple[float, ...]:
        """Tight 3D box in the ego frame: centre x, y, z, length, width, height, yaw."""
        low, high = self.parts.bounds()
        middle, size = (low + high) / 2, high - low
        sine, cosine = sincos(self.yaw)
        return (self.position[0] + cosine * middle[0] - sine * middle[1],
                self.position[1] + sine * middle[0] + cosine * middle[1],
                self.position[2] + middle[2], *size.tolist(), self.yaw)

    def corners(self) -> np.ndarray:
        """Corners of the 3D box in the ego frame, (8, 3)."""
        x, y, z, length, width, height, yaw = self.box
        sine, cosine = sincos(yaw)
        return np.array([(x + cosine * a - sine * b, y + sine * a + cosine * b, z + c)
                         for a in (-length / 2, length / 2) for b in (-width / 2, width / 2)
                         for c in (-height / 2, height / 2)])


@dataclass(frozen=True)
class Scene:
    """Everything that a renderer, a LiDAR and the label writers need.

    Args:
        key: ``(seed, split, index)``, from which the scene was drawn.
        camera: The camera.
        road: The ground.
        weather: Light and air.
        objects: Road users; they own the first bodies of ``primitives``, in this order.
        primitives: Objects and scenery as arrays.
        semantic: Semantic class of each body, uint8 (B,).
    """

    key: tuple[int, int, int]
    camera: Camera
    road: Road
    weather: Weather
    objects: tuple[SceneObject, ...]
    primitives: Primitives
    semantic: np.ndarray


def sample_scene(seed: int, split: str, index: int, size: tuple[int, int] = (320, 192)) -> Scene:
    """Draw the scene ``index`` of a split; splits of one seed share no scene.

    Args:
        seed: Seed of the data set.
        split: ``train``, ``val`` or ``test``.
        index: Number of the scene in its split.
        size: Image width and height in pixels.
    """
    key = (seed, SPLITS.index(split), index)
    draw = Draw(*key, 0)
    weather = sample_weather(draw)
    sides = tuple(draw.pick(SIDES, (5, 4, 3)) for _ in range(2))
    road = sample_road(draw, sides)
    camera = sample_camera(draw, road, size)
    objects = sample_objects(draw, road, camera, weather)
    scenery = sample_scenery(draw, road, sides, [item.position[:2] for item in objects])
    bodies = [(item.parts, item.position, item.yaw) for item in objects] + [row[:3] for row in scenery]
    semantic = [SEMANTIC_OF[item.category] for item in objects] + [row[3] for row in scenery]
    return Scene(key, camera, road, weather, tuple(objects), Primitives.place(bodies), np.array(semantic, np.uint8))


def sample_weather(draw: Draw) -> Weather:
    """Draw the weather: half of the scenes are sunny."""
    kind = draw.pick(WEATHER, (48, 17, 10, 12, 13))
    azimuth = draw.uniform(0, 2 * _HALF_TURN)
    elevation = draw.uniform(0.1, 0.28) if kind == 'dusk' else draw.uniform(0.4, 1.15)
    (sa, ca), (se, ce) = sincos(azimuth), sincos(elevation)
    low, high = {'clear': (500, 1200), 'overcast': (250, 500), 'fog': (28, 60), 'rain': (90, 180),
                 'dusk': (250, 600)}[kind]
    return Weather(kind, (ce * ca, ce * sa, se), draw.uniform(low, high),
                   draw.uniform(0.6, 1.0) if kind == 'rain' else 0.0)


def sample_camera(draw: Draw, road: Road, size: tuple[int, int]) -> Camera:
    """Draw a camera behind the windscreen of the ego vehicle, with small errors of its mounting."""
    width, height = size
    return Camera(
        width, height, FOCAL * width, ((width - 1) / 2, (height - 1) / 2),
        (0.0, draw.uniform(-0.35, 0.35), draw.uniform(1.35, 1.75)),
        yaw=draw.uniform(-0.03, 0.03) + 7 * road.bend, pitch=draw.uniform(0.015, 0.085), roll=draw.uniform(-0.02, 0.02))


def sample_objects(draw: Draw, road: Road, camera: Camera, weather: Weather) -> list[SceneObject]:
    """Draw 4 to 8 road users that the camera can see; none stands in another or hides another altogether."""
    wanted = draw.integer(4, 8)
    objects: list[SceneObject] = []
    views: list[tuple[float, float, float]] = []
    for _ in range(wanted * 12):
        if len(objects) == wanted:
            break
        category = draw.pick(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))
        near, far = (1 / math.sqrt(bound) for bound in _RANGE[category])
        root = draw.uniform(far, near)
        x = 1 / (root * root)
        place = _vehicle_place if category in ('car', 'van') else _PLACES[category]
        x, lateral, turn = place(draw, road, x)
        heading = _wrap(road.heading(x) + turn)
        parts = (BUILDERS[category](draw, umbrella=draw.chance(0.5)) if category == 'pedestrian'
                 and weather.kind == 'rain' else BUILDERS[category](draw))
        item = SceneObject(category, parts, (x, road.middle(x) + lateral, 0.0), heading)
        view = _view(camera, item)
        if view is None or any(_collide(item, other) for other in objects) or _hides(view, views):
            continue
        objects.append(item)
        views.append(view)
    return objects


def _wrap(angle: float) -> float:
    """The same direction within half a turn."""
    return angle - 2 * _HALF_TURN if angle > _HALF_TURN else angle + 2 * _HALF_TURN if angle < -_HALF_TURN else angle


def _vehicle_place(draw: Draw, road: Road, x: float) -> tuple[float, float, float]:
    """A place in a lane or in a parking strip: x, lateral offset, turn against the road."""
    strips = [side for side in (0, 1) if road.parking[side]]
    if strips and draw.chance(0.4):
        side = draw.pick(strips)
        lateral = road.left - 1.1 if side == 0 else road.right + 1.1
        return x, lateral + draw.uniform(-0.08, 0.08), _HALF_TURN if side == 0 else draw.uniform(-0.02, 0.02)
    lane = draw.pick(road.lanes)
    wobble = draw.uniform(-0.05, 0.05)
    if draw.chance(0.06):
        wobble += draw.pick((-1, 1)) * draw.uniform(0.5, 1.5)
    return x, lane.offset + draw.uniform(-0.3, 0.3), wobble + (0.0 if lane.direction > 0 else _HALF_TURN)


def _pedestrian_place(draw: Draw, road: Road, x: float) -> tuple[float, float, float]:
    """A place on a pavement, on the crossing, or, rarely, anywhere on the road."""
    across = draw.pick((-1, 1)) * _HALF_TURN / 2 + draw.uniform(-0.2, 0.2)
    if road.crossing and draw.chance(0.55):
        return draw.uniform(*road.crossing), draw.uniform(road.right, road.left), across
    if draw.chance(0.12):
        return x, draw.uniform(road.right + 0.3, road.left - 0.3), across
    side = draw.pick((0, 1), (1, 2))
    free = max(road.pavement[side], 1.6)
    step = draw.uniform(1.0, free - 0.2)
    lateral = road.left + step if side == 0 else road.right - step
    along = draw.pick((0.0, _HALF_TURN)) + draw.uniform(-0.25, 0.25)
    return x, lateral, across if draw.chance(0.2) else along


def _cyclist_place(draw: Draw, road: Road, x: float) -> tuple[float, float, float]:
    """A place near the kerb, riding with the traffic, or on the crossing."""
    if road.crossing and draw.chance(0.15):
        return draw.uniform(*road.crossing), draw.uniform(road.right, road.left), draw.pick((-1, 1)) * _HALF_TURN / 2
    lean = draw.uniform(-0.12, 0.12)
    if road.lanes[-1].direction > 0 or draw.chance(0.62):
        return x, road.lanes[0].offset - road.lane_width / 2 + draw.uniform(0.2, 1.0), lean
    return x, road.lanes[-1].offset + road.lane_width / 2 - draw.uniform(0.2, 1.0), _HALF_TURN + lean


_PLACES = {'pedestrian': _pedestrian_place, 'cyclist': _cyclist_place}


def _view(camera: Camera, item: SceneObject) -> tuple[float, float, float] | None:
    """Left and right column and depth of an object, or None when too little of it is in the image."""
    pixels, depth = camera.project(item.corners())
    if depth.min() < 1.0:
        return None
    left, right = float(pixels[:, 0].min()), float(pixels[:, 0].max())
    inside = min(right, camera.width) - max(left, 0.0)
    return (left, right, float(depth.mean())) if inside > 0.6 * (right - left) else None


def _hides(view: tuple[float, float, float], others: list[tuple[float, float, float]]) -> bool:
    """Whether one of two objects would hide most of the other; the nearer one is taken to cover all its columns."""
    left, right, depth = view
    for other_left, other_right, other_depth in others:
        shared = min(right, other_right) - max(left, other_left)
        hidden = right - left if depth > other_depth else other_right - other_left
        if shared > 0.6 * hidden:
            return True
    return False


def _collide(item: SceneObject, other: SceneObject) -> bool:
    """Whether two footprints, widened to upright rectangles along the road, come closer than half a metre."""
    reach = [(0.5 * box[3], 0.5 * box[4]) for box in (item.box, other.box)]
    turned = [abs(sincos(box[6])[0]) > 0.7 for box in (item.box, other.box)]
    reach = [pair[::-1] if swap else pair for pair, swap in zip(reach, turned)]
    return (abs(item.box[0] - other.box[0]) < reach[0][0] + reach[1][0] + 0.5
            and abs(item.box[1] - other.box[1]) < reach[0][1] + reach[1][1] + 0.3)
