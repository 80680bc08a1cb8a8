"""A spinning LiDAR in a Toytown scene: beams, noise, lost returns, sweeps of the past, dense scans of one object.

The sensor frame is KITTI's: x forward, y left, z up, origin at the sensor, metres. It is turned like the camera, so
that a heading in it and KITTI's ``rotation_y`` differ by a constant. One scan is a snapshot: nothing moves while the
sensor turns.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from . import ToytownError
from .draw import Draw, sincos
from .geometry import Primitives, cast_rays, surface
from .labels import BUILDING, CYCLIST, IGNORE, PEDESTRIAN, VEGETATION, VEHICLE
from .materials import GLASS, HEADLAMP, LEAVES, TAILLAMP
from .scene import Scene, SceneObject

# SemanticKITTI's raw ids.
CAR_ID, PERSON_ID, BICYCLIST_ID, ROAD_ID, SIDEWALK_ID, BUILDING_ID = 10, 30, 31, 40, 48, 50
LINE_ID, VEGETATION_ID, TERRAIN_ID, OTHER_ID = 60, 70, 72, 99
_ID_OF_CLASS = {BUILDING: BUILDING_ID, VEGETATION: VEGETATION_ID, VEHICLE: CAR_ID, PEDESTRIAN: PERSON_ID,
                CYCLIST: BICYCLIST_ID, IGNORE: OTHER_ID}
# Of asphalt, white paint, yellow paint, kerb, paving and grass, as in :mod:`.road`.
_ID_OF_ZONE = np.array([ROAD_ID, LINE_ID, LINE_ID, SIDEWALK_ID, SIDEWALK_ID, TERRAIN_ID], np.uint16)
_GROUND_ALBEDO = np.array([0.12, 0.6, 0.45, 0.25, 0.25, 0.3])
_ALBEDO_FACTOR = {GLASS: 0.1, LEAVES: 3.0, HEADLAMP: 4.0, TAILLAMP: 4.0}  # at near infrared, against the visible colour
_RATED_ALBEDO = 0.1  # a surface of this albedo, hit square on, is seen out to the sensor's reach

SWEEP_TIME = 0.1  # seconds between scans
DENSER = (5, 2)  # beams and azimuth steps of a dense scan, times those of the sensor


@dataclass(frozen=True)
class Lidar:
    """A spinning LiDAR.

    Args:
        beams: Number of beams, evenly spaced in elevation.
        low: Elevation of the lowest beam, degrees.
        high: Elevation of the highest beam, degrees.
        step: Azimuth step in degrees; rounded so that a turn holds a whole number of steps.
        noise: Standard deviation of the range, metres; the error is bounded by three of them.
        dropout: Share of returns that are lost whatever they come from. Weak returns (far, dark, grazing, in fog) are
            lost on top of that.
        height: Height above the ground, metres.
        reach: Range up to which a surface of 10 % albedo is seen, and beyond which nothing is, metres.
    """

    beams: int = 32
    low: float = -24.9
    high: float = 3.0
    step: float = 0.25
    noise: float = 0.02
    dropout: float = 0.02
    height: float = 1.73
    reach: float = 80.0

    def __post_init__(self) -> None:
        for good, option, rule in (
                (2 <= self.beams <= 256, f'--beams {self.beams}', 'must lie in 2 to 256'),
                (-60 <= self.low < self.high <= 60, f'--elevation {self.low} {self.high}',
                 'must be two angles in -60 to 60 degrees, the lower one first'),
                (0.02 <= self.step <= 10, f'--azimuth-step {self.step}', 'must lie in 0.02 to 10 degrees'),
                (0 <= self.noise <= 1, f'--range-noise {self.noise}', 'must lie in 0 to 1 m'),
                (0 <= self.dropout < 1, f'--drop-out {self.dropout}', 'must be at least 0 and less than 1'),
                (0.5 <= self.height <= 4, f'--lidar-height {self.height}', 'must lie in 0.5 to 4 m'),
                (5 <= self.reach <= 500, f'--reach {self.reach}', 'must lie in 5 to 500 m')):
            if not good:
                raise ToytownError(f'toytown: {option} {rule}')

    @property
    def columns(self) -> int:
        """Azimuth steps in a turn."""
        return round(360 / self.step)

    def elevations(self, denser: int = 1) -> np.ndarray:
        """Elevations of the beams in radians, from the lowest; ``denser`` - 1 further ones between neighbours."""
        parts = (self.beams - 1) * denser
        return np.radians(self.low + (self.high - self.low) / parts * np.arange(parts + 1))

    def azimuths(self, denser: int = 1) -> np.ndarray:
        """Azimuths in radians, from straight behind, turning left."""
        count = self.columns * denser
        return np.radians(360 / count * np.arange(count) - 180)


@dataclass(frozen=True)
class Pose:
    """A position in metres and a turn about the vertical, to the left, in radians."""

    x: float
    y: float
    z: float
    yaw: float

    @property
    def matrix(self) -> np.ndarray:
        """Homogeneous transform to the parent frame, (4, 4)."""
        sine, cosine = sincos(self.yaw)
        return np.array([[cosine, -sine, 0, self.x], [sine, cosine, 0, self.y], [0, 0, 1, self.z], [0, 0, 0, 1.0]])


@dataclass(frozen=True)
class Scan:
    """The returns of one scan.

    Args:
        points: x, y, z in the sensor frame, intensity in [0, 1]; float32 (N, 4).
        semantic: SemanticKITTI's raw class ids, uint16 (N,).
        instance: 1 + index of the scene object hit, 0 for none, uint16 (N,).
    """

    points: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray

    @property
    def label(self) -> np.ndarray:
        """SemanticKITTI's label: class in the lower, instance in the upper 16 bits; uint32 (N,)."""
        return self.semantic.astype(np.uint32) | self.instance.astype(np.uint32) << 16


@dataclass(frozen=True)
class Motion:
    """How the ego vehicle and the objects of a scene move; straight and steady over the few sweeps.

    Args:
        speed: Speed of the ego vehicle along its lane, m/s.
        velocities: Velocity of each object in the ego frame of the present, m/s, (objects, 2).
    """

    speed: float
    velocities: np.ndarray

    def sensor_pose(self, scene: Scene, sensor: Lidar, time: float) -> Pose:
        """Pose of the sensor at ``time`` seconds (not positive) in the ego frame of the present."""
        x = self.speed * time
        y, turn = (scene.road.middle(x), scene.road.heading(x)) if time else (0.0, 0.0)
        return Pose(x, y, sensor.height, turn + scene.camera.yaw)

    def primitives(self, scene: Scene, time: float) -> Primitives:
        """The primitives at ``time``, in the ego frame of the present."""
        if not time:
            return scene.primitives
        shift = np.zeros((len(scene.primitives.sphere), 3))
        shift[:len(self.velocities), :2] = self.velocities * time
        sphere = scene.primitives.sphere.copy()
        sphere[:, :3] += shift
        return replace(scene.primitives, centre=scene.primitives.centre + shift[scene.primitives.body], sphere=sphere)


def sample_motion(scene: Scene) -> Motion:
    """Draw who moves how: parked vehicles stand, traffic flows in both directions, people walk and ride.

    Vehicles that share the ego vehicle's direction share its speed, so none ever was in another's place.
    """
    draw = Draw(*scene.key, 2)
    ego, oncoming = draw.uniform(2, 14), draw.uniform(4, 14)
    velocities = np.zeros((len(scene.objects), 2))
    for index, item in enumerate(scene.objects):
        pace = {'pedestrian': draw.uniform(0, 1.8), 'cyclist': draw.uniform(2.5, 6)}.get(item.category)
        if pace is None:
            along = abs(item.yaw - scene.road.heading(item.position[0])) < 1.6
            pace = 0.0 if _parked(scene, item) else ego if along else oncoming
        sine, cosine = sincos(item.yaw)
        velocities[index] = pace * cosine, pace * sine
    return Motion(ego, velocities)


def _parked(scene: Scene, item: SceneObject) -> bool:
    """Whether a vehicle stands in a parking strip."""
    road = scene.road
    lateral = item.position[1] - road.middle(item.position[0])
    return any(strip and abs(lateral - middle) < 0.5
               for strip, middle in zip(road.parking, (road.left - 1.1, road.right + 1.1)))


def scan(scene: Scene, sensor: Lidar, motion: Motion | None = None, sweep: int = 0) -> Scan:
    """Scan a scene.

    Args:
        scene: The scene.
        sensor: The LiDAR.
        motion: How things move; needed for sweeps of the past.
        sweep: How many sweeps ago; 0 for the present.
    """
    motion = motion or Motion(0.0, np.zeros((len(scene.objects), 2)))
    time = -SWEEP_TIME * sweep
    return _sense(scene, sensor, _rays(sensor.elevations(), sensor.azimuths()),
                  motion.sensor_pose(scene, sensor, time), motion.primitives(scene, time), Draw(*scene.key, 3, sweep))


def dense_scan(scene: Scene, sensor: Lidar, index: int) -> Scan:
    """Scan one object alone: nothing hides it, no return is lost, and rays are ten times denser (5 x 2).

    The sensor's own rays are among them, so the object gets at least as many points as in :func:`scan`.

    Args:
        scene: The scene.
        sensor: The LiDAR.
        index: Which of ``scene.objects``.
    """
    item = scene.objects[index]
    pose = Pose(0.0, 0.0, sensor.height, scene.camera.yaw)
    corners = to_frame(item.corners(), pose)
    flat = np.hypot(corners[:, 0], corners[:, 1])
    tilt, turn = np.arctan2(corners[:, 2], flat), np.arctan2(corners[:, 1], corners[:, 0])
    if turn.max() - turn.min() > math.pi:
        raise ValueError(f'dense_scan: object {index} lies behind the sensor, across the azimuth of 180 degrees')
    # The lowest elevation of a box beside the sensor can lie between two corners: their least horizontal distance.
    near = max(flat.min() - float(np.hypot(*item.box[3:5])) / 2, 0.5)
    bottom, top = corners[:, 2].min(), corners[:, 2].max()
    low, high = min(tilt.min(), math.atan2(bottom, near)), max(tilt.max(), math.atan2(top, near))
    elevations, azimuths = sensor.elevations(DENSER[0]), sensor.azimuths(DENSER[1])
    rays = _rays(elevations[(elevations >= low - 1e-6) & (elevations <= high + 1e-6)],
                 azimuths[(azimuths >= turn.min() - 1e-6) & (azimuths <= turn.max() + 1e-6)])
    alone = Primitives.place([(item.parts, item.position, item.yaw)])
    return _sense(scene, sensor, rays, pose, alone, Draw(*scene.key, 4, index), owner=index)


def conceptual(scene: Scene, sensor: Lidar, seen: Scan, which: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A scan whose objects are replaced by their dense scans.

    Args:
        scene: The scene.
        sensor: The LiDAR.
        seen: Its scan.
        which: Indices of the objects to replace.

    Returns:
        Points (M, 4): all others in their order, then the objects'; and the labels of :attr:`Scan.label` (M,).
    """
    rest = ~np.isin(seen.instance, np.array(which, np.uint16) + 1)
    parts = [Scan(seen.points[rest], seen.semantic[rest], seen.instance[rest]),
             *(dense_scan(scene, sensor, index) for index in which)]
    return np.concatenate([part.points for part in parts]), np.concatenate([part.label for part in parts])


def to_frame(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Points (..., 3) of the parent frame in the frame of a pose."""
    sine, cosine = sincos(pose.yaw)
    x, y, z = (points[..., axis] - origin for axis, origin in enumerate((pose.x, pose.y, pose.z)))
    return np.stack([cosine * x + sine * y, cosine * y - sine * x, z], -1)


def _rays(elevations: np.ndarray, azimuths: np.ndarray) -> np.ndarray:
    """Unit directions in the sensor frame, beam by beam, (beams * columns, 3)."""
    (se, ce), (sa, ca) = ((np.round(np.sin(a), 12), np.round(np.cos(a), 12)) for a in (elevations, azimuths))
    return np.stack([ce[:, None] * ca, ce[:, None] * sa, np.broadcast_to(se[:, None], (len(se), len(sa)))],
                    -1).reshape(-1, 3)


def _sense(scene: Scene, sensor: Lidar, rays: np.ndarray, pose: Pose, primitives: Primitives, draw: Draw,
           owner: int | None = None) -> Scan:
    """Cast rays of the sensor frame; with ``owner``, the primitives are that object's, and no return is lost."""
    sine, cosine = sincos(pose.yaw)
    aim = np.stack([cosine * rays[:, 0] - sine * rays[:, 1], sine * rays[:, 0] + cosine * rays[:, 1], rays[:, 2]], 1)
    origin = np.array([pose.x, pose.y, pose.z])
    hits = cast_rays(np.broadcast_to(origin, aim.shape), aim, primitives, sensor.reach)
    distance, primitive = hits.distance, hits.primitive
    if owner is None:
        down = aim[:, 2] < 0
        ground = np.where(down, pose.z / np.where(down, -aim[:, 2], 1.0), np.inf)
        floor = (ground < distance) & (ground < sensor.reach)
        distance, primitive = np.where(floor, ground, distance), np.where(floor, -1, primitive)
    error = sensor.noise * draw.bell((len(rays),))
    luck, grain = draw.array(0, 1, (2, len(rays)))
    met = np.flatnonzero(np.isfinite(distance))
    points = origin + aim[met] * distance[met, None]
    albedo, slant, semantic, instance = _surfaces(scene, primitives, points, aim[met], primitive[met], owner)
    if owner is None:
        power = albedo / _RATED_ALBEDO * slant * (sensor.reach / distance[met]) ** 2
        power *= np.exp(-2 / scene.weather.visibility * distance[met])
        kept = luck[met] < (1 - sensor.dropout) * power ** 2 / (power ** 2 + 0.05)
    else:
        kept = np.ones(len(met), bool)
    strength = np.clip(albedo * slant + 0.02 * (grain[met] - 0.5), 0, 1)
    place = rays[met] * (distance[met] + error[met])[:, None]
    found = np.concatenate([place, strength[:, None]], 1)[kept].astype(np.float32)
    return Scan(found, semantic[kept], instance[kept])


def _surfaces(scene: Scene, primitives: Primitives, points: np.ndarray, aim: np.ndarray, which: np.ndarray,
              owner: int | None) -> tuple[np.ndarray, ...]:
    """Albedo, cosine of the incidence, class id and instance of hit points (N, 3), each (N,)."""
    floor, solid = np.flatnonzero(which < 0), np.flatnonzero(which >= 0)
    albedo, slant = np.empty(len(points)), np.empty(len(points))
    semantic, instance = np.zeros(len(points), np.uint16), np.zeros(len(points), np.uint16)
    zone = scene.road.zones(points[floor, 0], points[floor, 1])
    albedo[floor] = _GROUND_ALBEDO[zone] * (1 - 0.6 * scene.weather.wetness)
    slant[floor] = -aim[floor, 2]
    semantic[floor] = _ID_OF_ZONE[zone]
    hit = which[solid]
    normal = surface(points[solid], hit, primitives)[1]
    factor = np.ones(len(hit))
    for material, value in _ALBEDO_FACTOR.items():
        factor[primitives.material[hit] == material] = value
    albedo[solid] = np.minimum(primitives.colour[hit].sum(1) / 3 * factor, 1.0)
    slant[solid] = np.abs((normal * aim[solid]).sum(1))
    body = primitives.body[hit] if owner is None else np.full(len(hit), owner)
    ids = np.array([_ID_OF_CLASS[int(code)] for code in scene.semantic], np.uint16)
    semantic[solid] = ids[body]
    instance[solid] = np.where(body < len(scene.objects), body + 1, 0)
    return albedo, slant, semantic, instance
