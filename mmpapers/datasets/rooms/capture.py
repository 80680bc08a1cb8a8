"""Point clouds of a room: a scan from many places, as ScanNet's meshes, and one depth camera's view, as SUN RGB-D's."""

from dataclasses import dataclass

import numpy as np

from ..toytown.draw import Draw, sincos
from ..toytown.geometry import Camera, cast_camera, cast_rays, surface
from .furniture import FLOOR, WALL
from .room import Room

NOISE = 0.005  # of a scan, along the surface's normal, metres
DEPTH_NOISE = 0.002  # of a camera at 1 m; grows with the square of the depth
_PLACES = 5  # from which a room is scanned
_SHARE = {WALL: 0.35, FLOOR: 0.6}  # points per area on the room itself, against those on furniture
_FOCAL = 0.727  # over the image width, as SUN RGB-D's 530 of 730 pixels: 69 degrees of view
_MIN_PIXELS = 0.002  # share of the image that an object must take to be labelled
_MARGIN = 0.1  # of the image, by which an object's centre may lie outside it
_AMBIENT, _LIGHT = 0.55, np.array([0.3, 0.2, 0.93])


@dataclass(frozen=True)
class Cloud:
    """Points of a room.

    Args:
        points: Coordinates in metres, float64 (N, 3).
        colour: sRGB in [0, 1], float64 (N, 3).
        body: Body that each point lies on, int64 (N,).
    """

    points: np.ndarray
    colour: np.ndarray
    body: np.ndarray


@dataclass(frozen=True)
class Shot:
    """One view of a depth camera.

    Args:
        camera: The camera, in the room's frame; it is never tilted sideways.
        cloud: Its points in the room's frame.
        image: Its picture, RGB uint8 (H, W, 3).
        body: Body seen in each pixel, int64 (H, W), -1 for none.
        shown: Indices of the objects that are seen well enough to be labelled.
    """

    camera: Camera
    cloud: Cloud
    image: np.ndarray
    body: np.ndarray
    shown: tuple[int, ...]


def scan_room(room: Room, count: int) -> Cloud:
    """Sample the surfaces that can be seen from any of five places in the room, evenly but for thinner walls and floor.

    Args:
        room: The room.
        count: Number of points.
    """
    draw = Draw(*room.key, 11)
    places = _standpoints(draw, room)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    found = 0
    while found < count:
        points, which, normal = _sample(draw, room, 2 * count)
        seen = np.zeros(len(points), bool)
        for place in places:
            rest = np.flatnonzero(~seen)
            hits = cast_rays(np.broadcast_to(place, (len(rest), 3)), points[rest] - place, room.primitives)
            seen[rest] = hits.distance > 1 - 1e-6
        parts.append((points[seen], which[seen], normal[seen]))
        found += int(seen.sum())
    points, which, normal = (np.concatenate(column)[:count] for column in zip(*parts))
    colour = _colour(draw, room, which, normal)
    return Cloud(points + normal * (NOISE * draw.bell((count,)))[:, None], colour, room.primitives.body[which])


def _standpoints(draw: Draw, room: Room) -> np.ndarray:
    """Places at eye level, clear of everything, (places, 3)."""
    bounds = [room.bounds(body) for body in range(len(room.objects))]
    found: list[np.ndarray] = []
    for _ in range(400):
        place = np.array([draw.uniform(-0.5, 0.5) * (edge - 0.6) for edge in room.size[:2]] + [draw.uniform(1.3, 1.8)])
        if all(((place < low - 0.1) | (place > high + 0.1)).any() for low, high in bounds):
            found.append(place)
        if len(found) == _PLACES:
            break
    return np.array(found)


def _sample(draw: Draw, room: Room, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 3) on the faces of boxes, their primitives (N,) and outward normals (N, 3)."""
    axes = room.primitives.axes
    normals = np.cross(axes[:, (1, 2, 0)], axes[:, (2, 0, 1)])  # (P, 3 faces, 3)
    area = np.sqrt((normals ** 2).sum(-1))
    share = np.array([_SHARE.get(int(code), 1.0) for code in room.semantic])[room.primitives.body]
    weight = np.cumsum(np.repeat(area * share[:, None], 2, 1).reshape(-1))  # both faces of each kind
    face = np.searchsorted(weight, draw.array(0, float(weight[-1]), (count,)), side='right')
    which, side = face // 6, face % 6
    local = draw.array(-1, 1, (count, 3))
    sign = np.where(side % 2, 1.0, -1.0)
    local[np.arange(count), side // 2] = sign
    points = room.primitives.centre[which] + (local[:, :, None] * axes[which]).sum(1)
    unit = (normals / area[..., None])[which, side // 2]
    outward = np.where((unit * axes[which, side // 2]).sum(1) > 0, sign, -sign)
    return points, which, unit * outward[:, None]


def _colour(draw: Draw, room: Room, which: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] of points on primitives, lit from above, with some grain."""
    light = _AMBIENT + (1 - _AMBIENT) * np.abs((normal * _LIGHT).sum(1))
    grain = 1 + 0.04 * draw.bell((len(which),))
    return np.clip(room.primitives.colour[which] * (light * grain)[:, None], 0, 1) ** (1 / 2.2)


def shoot(room: Room, size: tuple[int, int], count: int) -> Shot:
    """Take a picture with depth: of several places near the walls, the first from which two objects can be seen.

    Args:
        room: The room.
        size: Image width and height in pixels.
        count: Number of points to keep of the image's pixels; drawn with repetition when it has fewer.
    """
    draw = Draw(*room.key, 12)
    tried = []
    bounds = [room.bounds(body) for body in range(len(room.objects))]
    while len(tried) < 6:
        camera = _camera(draw, room, size)
        if any(((camera.position > low - 0.1) & (camera.position < high + 0.1)).all() for low, high in bounds):
            continue
        hits = cast_camera(camera, camera.directions(), room.primitives)[0]
        body = np.where(hits.primitive < 0, -1, room.primitives.body[hits.primitive])
        shown = tuple(index for index in range(len(room.objects)) if _shown(room, camera, body, index))
        tried.append((sum(room.support[index] < 0 for index in shown), camera, hits, body, shown))
        if tried[-1][0] >= 2:
            break
    _, camera, hits, body, shown = max(tried, key=lambda trial: trial[0])
    depth, which = hits.distance.reshape(-1), hits.primitive.reshape(-1)
    rays = camera.directions().reshape(-1, 3)
    met = np.flatnonzero(which >= 0)
    exact = np.array(camera.position) + rays[met] * depth[met, None]
    colour = np.zeros((len(rays), 3))
    colour[met] = _colour(draw, room, which[met], surface(exact, which[met], room.primitives)[1])
    noisy = depth[met] + DEPTH_NOISE * depth[met] ** 2 * draw.bell((len(met),))
    order = np.argsort(draw.array(0, 1, (len(met),)), kind='stable')
    kept = np.resize(order, count)
    points = np.array(camera.position) + rays[met[kept]] * noisy[kept, None]
    shape = camera.height, camera.width
    cloud = Cloud(points, colour[met[kept]], room.primitives.body[which[met[kept]]])
    return Shot(camera, cloud, (colour * 255 + 0.5).astype(np.uint8).reshape(*shape, 3), body, shown)


def _shown(room: Room, camera: Camera, body: np.ndarray, index: int) -> bool:
    """Whether enough of an object can be seen, and its centre lies in the picture or not far outside."""
    if np.count_nonzero(body == index) < _MIN_PIXELS * body.size:
        return False
    (u, v), depth = camera.project(np.array(room.objects[index].box[:3]))
    shift_x, shift_y = _MARGIN * camera.width, _MARGIN * camera.height
    return bool(depth > 0.3 and -shift_x < u < camera.width + shift_x and -shift_y < v < camera.height + shift_y)


def _camera(draw: Draw, room: Room, size: tuple[int, int]) -> Camera:
    """A camera held near a wall or a corner, aimed at the room's middle."""
    (width, height), (length, depth, _) = size, room.size
    x, y = (draw.pick((-1, 1)) * draw.uniform(0.25, 0.44) * edge for edge in (length, depth))
    yaw = round(float(np.arctan2(draw.uniform(-0.7, 0.7) - y, draw.uniform(-0.7, 0.7) - x)), 9)
    return Camera(width, height, _FOCAL * width, ((width - 1) / 2, (height - 1) / 2), (x, y, draw.uniform(1.25, 1.7)),
                  yaw=yaw, pitch=draw.uniform(0.2, 0.4))


def upright(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Room points (N, 3) in SUN RGB-D's depth frame: x right, y forward, z up, origin at the camera, never tilted."""
    sine, cosine = sincos(camera.yaw)
    x, y, z = (points[:, axis] - camera.position[axis] for axis in range(3))
    return np.stack([sine * x - cosine * y, cosine * x + sine * y, z], 1)


def depth_to_image(camera: Camera) -> np.ndarray:
    """Maps points of :func:`upright` to homogeneous pixels, (3, 3)."""
    level = upright(np.eye(3) + np.array(camera.position), camera)  # rows: the room's axes in the upright frame
    return camera.intrinsics @ camera.axes @ level
