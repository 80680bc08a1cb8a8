"""Rays against primitives, compared with brute force and with each other; the camera; bodies."""

import numpy as np
import pytest

from mmpapers.datasets.toytown.geometry import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    RING,
    RING_HOLE,
    Camera,
    Parts,
    Primitives,
    cast_camera,
    cast_rays,
    in_shadow,
    surface,
)
from mmpapers.datasets.toytown.geometry.raycast import windows
from mmpapers.datasets.toytown.scene import sample_scene

pytestmark = pytest.mark.core

KINDS = {'box': BOX, 'cylinder': CYLINDER, 'ellipsoid': ELLIPSOID, 'ring': RING}


def inside(kind: int, local: np.ndarray) -> np.ndarray:
    """Definition of the canonical shapes."""
    x, y, z = np.moveaxis(local, -1, 0)
    if kind == BOX:
        return (np.abs(local) <= 1).all(-1)
    if kind == ELLIPSOID:
        return x * x + y * y + z * z <= 1
    square = x * x + y * y
    return (np.abs(z) <= 1) & (square <= 1) & ((square >= RING_HOLE ** 2) | (kind == CYLINDER))


def single(kind: int, rng: np.random.Generator) -> Primitives:
    """One primitive with random, sheared axes."""
    parts = Parts()
    axes = 0.4 * rng.normal(size=(3, 3)) + 1.2 * np.eye(3)
    parts.add(kind, rng.uniform(-0.5, 0.5, 3), axes, (1, 1, 1), 0)
    return Primitives.place([(parts, (0.3, -0.2, 0.1), 0.7)])


def aimed_rays(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays from a far shell roughly towards the origin."""
    origins = rng.normal(size=(count, 3))
    origins *= 8 / np.linalg.norm(origins, axis=1, keepdims=True)
    return origins, (rng.normal(size=(count, 3)) - origins) / 8


@pytest.mark.parametrize('name', KINDS)
def test_hits_agree_with_marching(name):
    rng = np.random.default_rng(KINDS[name])
    for _ in range(6):
        primitives = single(KINDS[name], rng)
        origins, rays = aimed_rays(rng, 150)
        steps = np.linspace(0, 20, 4001)
        points = origins[:, None] + rays[:, None] * steps[:, None]
        local = (points - primitives.centre[0]) @ primitives.inverse[0].T
        solid = inside(KINDS[name], local)
        marched = np.where(solid.any(1), steps[solid.argmax(1)], np.inf)
        found = cast_rays(origins, rays, primitives).distance
        both = np.isfinite(marched)
        assert both.sum() > 15
        assert (np.isfinite(found) | ~both).all()  # marching misses only what is thinner than a step
        late = marched[both] - found[both]
        assert (late > -1e-9).all()
        assert np.quantile(late, 0.9) <= steps[1] + 1e-9
        grazing = np.isfinite(found) & ~both
        assert grazing.sum() <= 6


@pytest.mark.parametrize('name', KINDS)
def test_hit_points_lie_on_the_surface_and_normals_point_outwards(name):
    rng = np.random.default_rng(10 + KINDS[name])
    primitives = single(KINDS[name], rng)
    origins, rays = aimed_rays(rng, 400)
    hits = cast_rays(origins, rays, primitives)
    met = np.flatnonzero(hits.primitive >= 0)
    points = origins[met] + rays[met] * hits.distance[met, None]
    local, normal = surface(points, hits.primitive[met], primitives)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-12)
    assert ((normal * rays[met]).sum(1) <= 1e-9).all()
    np.testing.assert_allclose(primitives.centre[0] + local @ primitives.axes[0], points, atol=1e-9)
    for sign, expected in ((1e-6, False), (-1e-6, True)):
        moved = (points + sign * normal - primitives.centre[0]) @ primitives.inverse[0].T
        agree = inside(KINDS[name], moved) == expected
        assert agree.mean() > 0.99  # edges excepted


def test_rays_from_inside_and_along_faces():
    parts = Parts()
    parts.box((0, 0, 0), (2, 2, 2), (1, 1, 1), 0)
    primitives = Primitives.place([(parts, (0, 0, 0), 0.0)])
    origins = np.array([[0, 0, 0], [-3, 0.5, 0.5], [-3, 2, 0], [-3, 0, 0], [3, 0, 0]], np.float64)
    rays = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0], [1, 0, 0]], np.float64)
    assert cast_rays(origins, rays, primitives).distance.tolist() == [1, 2, np.inf, 1, np.inf]


def test_limit_and_empty_scene():
    parts = Parts()
    parts.ellipsoid((5, 0, 0), (1, 1, 1), (1, 1, 1), 0)
    primitives = Primitives.place([(parts, (0, 0, 0), 0.0)])
    origin, ray = np.zeros((1, 3)), np.array([[1.0, 0, 0]])
    assert cast_rays(origin, ray, primitives, limit=3.9).primitive.tolist() == [-1]
    assert cast_rays(origin, ray, primitives, limit=4.1).distance.tolist() == [4]
    empty = Primitives.place([])
    assert cast_rays(origin, ray, empty).distance.tolist() == [np.inf]
    assert in_shadow(origin, ray[0], empty).tolist() == [False]


@pytest.mark.parametrize('index', [1, 7])
def test_z_buffer_equals_free_rays(index):
    scene = sample_scene(3, 'train', index, (96, 64))
    rays = scene.camera.directions()
    hits, covered = cast_camera(scene.camera, rays, scene.primitives)
    flat = rays.reshape(-1, 3)
    origins = np.broadcast_to(np.array(scene.camera.position), flat.shape)
    free = cast_rays(origins, flat, scene.primitives)
    np.testing.assert_array_equal(hits.distance.reshape(-1), free.distance)
    assert (hits.primitive.reshape(-1) == free.primitive).mean() > 0.999  # equal distances may differ in the owner
    body = scene.primitives.body[hits.primitive[hits.primitive >= 0]]
    assert (np.bincount(body, minlength=len(covered)) <= covered).all()


def test_windows_of_primitives_that_reach_behind_the_camera():
    camera = Camera(64, 48, 54.4, (31.5, 23.5), (0, 0, 1.5), pitch=0.1)
    parts = Parts()
    parts.box((0, -3, 1), (30, 2, 4), (1, 1, 1), 0)
    parts.box((-5, 0, 1), (2, 2, 2), (1, 1, 1), 0)
    primitives = Primitives.place([(parts, (0, 0, 0), 0.0)])
    beside, behind = windows(camera, primitives)
    assert beside[0] > 30 and beside[2] == 64
    assert behind[2] <= behind[0] or behind[3] <= behind[1]
    hits, _ = cast_camera(camera, camera.directions(), primitives)
    flat = camera.directions().reshape(-1, 3)
    free = cast_rays(np.broadcast_to(np.array(camera.position), flat.shape), flat, primitives)
    np.testing.assert_array_equal(hits.distance.reshape(-1), free.distance)
    assert np.isfinite(free.distance).any()


def test_shadows_equal_free_rays():
    scene = sample_scene(3, 'train', 5, (96, 64))
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(2, 60, 1500), rng.uniform(-20, 20, 1500), rng.uniform(0.02, 3, 1500)], 1)
    light = np.array([0.3, -0.5, 0.6])
    free = cast_rays(points, np.broadcast_to(light, points.shape), scene.primitives, any_hit=True)
    dark = in_shadow(points, light, scene.primitives)
    np.testing.assert_array_equal(dark, free.primitive >= 0)
    assert 0.05 < dark.mean() < 0.95


def test_camera_frame_and_projection():
    camera = Camera(320, 192, 272, (159.5, 95.5), (0.2, -0.1, 1.5), yaw=0.03, pitch=0.05, roll=-0.02)
    np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-11)
    assert np.linalg.det(camera.axes) == pytest.approx(1)
    rays = camera.directions()
    points = np.array(camera.position) + rays * 7.5
    pixels, depth = camera.project(points)
    np.testing.assert_allclose(depth, 7.5, atol=1e-9)
    v, u = np.mgrid[:192, :320]
    np.testing.assert_allclose(pixels, np.stack([u, v], -1), atol=1e-7)
    matrix = camera.ego_to_camera
    np.testing.assert_allclose(matrix[:3, :3] @ points[3, 4] + matrix[:3, 3], rays[3, 4] @ camera.axes.T * 7.5,
                               atol=1e-9)
    level = Camera(320, 192, 272, (159.5, 95.5), (0, 0, 1.5))
    ahead_left_above = level.project(np.array([10.0, 1.0, 2.5]))[0]
    assert ahead_left_above[0] < 159.5 and ahead_left_above[1] < 95.5
    np.testing.assert_allclose(camera.directions(2).reshape(192, 2, 320, 2, 3).mean((1, 3)), rays, atol=1e-12)


def test_positive_angles_turn_left_and_down():
    point = np.array([10.0, 0.0, 1.5])
    centre = dict(width=320, height=192, focal=272, centre=(159.5, 95.5), position=(0, 0, 1.5))
    assert Camera(**centre, yaw=0.1).project(point)[0][0] > 160  # a camera turned left sees it on the right
    assert Camera(**centre, pitch=0.1).project(point)[0][1] < 95


def test_prism_is_a_trapezoid():
    parts = Parts()
    parts.prism((-2, 1.5), (-1, 0.8), 0.5, 1.5, 2.0, (1, 1, 1), 0)
    primitives = Primitives.place([(parts, (0, 0, 0), 0.0)])
    rng = np.random.default_rng(0)
    points = rng.uniform((-2.5, -1.5, 0.2), (2, 1.5, 1.8), (4000, 3))
    local = np.einsum('pij,npj->npi', primitives.inverse, points[:, None] - primitives.centre)
    union = inside(BOX, local).any(1)
    part = points[:, 2] - 0.5
    expected = ((np.abs(points[:, 1]) <= 1) & (part >= 0) & (part <= 1) & (points[:, 0] >= -2 + part)
                & (points[:, 0] <= 1.5 - 0.7 * part))
    np.testing.assert_array_equal(union, expected)
    with pytest.raises(ValueError, match='factor of two'):
        parts.prism((-2, 2), (-0.5, 0.5), 0, 1, 1, (1, 1, 1), 0)


def test_bounds_are_tight():
    rng = np.random.default_rng(5)
    angles, heights = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(-1, 1, 201))
    ball = np.sqrt(1 - heights ** 2)
    tube = np.stack([np.cos(angles), np.sin(angles), heights], -1).reshape(-1, 3)
    cloud = {CYLINDER: tube, RING: tube,
             ELLIPSOID: np.stack([ball * np.cos(angles), ball * np.sin(angles), heights], -1).reshape(-1, 3),
             BOX: np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)}
    for kind, canonical in cloud.items():
        parts = Parts()
        axes, centre = rng.normal(size=(3, 3)), rng.normal(size=3)
        parts.add(kind, centre, axes, (1, 1, 1), 0)
        low, high = parts.bounds()
        points = centre + canonical @ axes
        np.testing.assert_allclose(low, points.min(0), atol=2e-3)
        np.testing.assert_allclose(high, points.max(0), atol=2e-3)


def test_rods_join_their_ends():
    parts = Parts()
    start, end = np.array([0.1, 0.2, 0.3]), np.array([1.0, -0.4, 0.9])
    parts.rod(start, end, 0.05, (1, 1, 1), 0)
    primitives = Primitives.place([(parts, (0, 0, 0), 0.0)])
    axes = primitives.axes[0]
    np.testing.assert_allclose(primitives.centre[0] + axes[2], end, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(axes[:2], axis=1), 0.05, atol=1e-12)
    np.testing.assert_allclose(axes @ axes.T, np.diag(np.diag(axes @ axes.T)), atol=1e-12)
