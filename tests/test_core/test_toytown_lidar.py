"""Toytown's LiDAR: ranges, noise, lost returns, sweeps and dense scans against closed forms."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from mmpapers.datasets.toytown import VERSION, ToytownError
from mmpapers.datasets.toytown.geometry import Parts, Primitives
from mmpapers.datasets.toytown.kitti import label_rows, rectify, sweep_info
from mmpapers.datasets.toytown.labels import BUILDING
from mmpapers.datasets.toytown.lidar import (
    BUILDING_ID,
    CAR_ID,
    LINE_ID,
    ROAD_ID,
    Lidar,
    Motion,
    Pose,
    conceptual,
    dense_scan,
    sample_motion,
    scan,
    to_frame,
)
from mmpapers.datasets.toytown.scene import Scene, sample_scene
from mmpapers.datasets.toytown.view import look

pytestmark = pytest.mark.core

SENSOR = Lidar(beams=24, step=0.5)
EXACT = replace(SENSOR, noise=0.0, dropout=0.0)
RECORDED = {1: 'e78477957b16'}  # of the points below, by version of the generator; others need another VERSION


@pytest.fixture(scope='module')
def frames():
    """Rectified scenes with their views, scans and labels."""
    made = []
    for index in (5, 6, 12):
        scene = rectify(sample_scene(0, 'train', index), (320, 192))
        view, seen = look(scene), scan(scene, SENSOR)
        made.append((scene, view, seen, label_rows(scene, view, seen)))
    return made


def walled(distance: float = 20.0, colour: float = 0.5, visibility: float = 1e9) -> Scene:
    """An empty road before a wide wall that faces the sensor."""
    scene = sample_scene(0, 'train', 0)
    parts = Parts()
    parts.box((distance + 0.5, 0, 10), (1, 400, 20), (colour,) * 3, 0)
    road = replace(scene.road, bend=0.0, twist=0.0)
    return replace(scene, objects=(), primitives=Primitives.place([(parts, (0, 0, 0), 0.0)]), road=road,
                   semantic=np.array([BUILDING], np.uint8), camera=replace(scene.camera, yaw=0.0),
                   weather=replace(scene.weather, wetness=0.0, visibility=visibility))


def in_frame(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a homogeneous transform (4, 4)."""
    return points[:, :3].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]


def to_ego(points: np.ndarray, scene: Scene) -> np.ndarray:
    """Sensor points in the ego frame."""
    return in_frame(points, Pose(0, 0, SENSOR.height, scene.camera.yaw).matrix)


def test_ranges_to_a_wall_and_the_ground():
    sensor = replace(EXACT, reach=500.0)
    seen = scan(walled(), sensor)
    wall, floor = seen.semantic == BUILDING_ID, np.isin(seen.semantic, (ROAD_ID, LINE_ID))
    assert wall.sum() > 500 and floor.sum() > 500
    np.testing.assert_allclose(seen.points[wall, 0], 20, atol=1e-4)
    np.testing.assert_allclose(seen.points[~wall, 2], -sensor.height, atol=1e-5)
    # One ring of the ground per beam that looks down, of the closed form's radius, unless the wall stands before it.
    radius = np.hypot(seen.points[floor, 0], seen.points[floor, 1])
    rings = sensor.height / np.tan(-sensor.elevations()[sensor.elevations() < 0])
    assert np.abs(radius[:, None] - rings).min(1).max() < 1e-4
    azimuth = np.degrees(np.arctan2(seen.points[:, 1], seen.points[:, 0])) / sensor.step
    np.testing.assert_allclose(azimuth, np.round(azimuth), atol=1e-3)
    assert not seen.instance.any()


def test_range_noise_is_along_the_ray_and_bounded():
    noisy, exact = scan(walled(), replace(EXACT, noise=0.05)), scan(walled(), EXACT)
    assert len(noisy.points) == len(exact.points)
    ranges = np.linalg.norm(exact.points[:, :3], axis=1)
    error = np.linalg.norm(noisy.points[:, :3], axis=1) - ranges
    assert abs(error.mean()) < 0.003 and error.std() == pytest.approx(0.05, rel=0.05)
    assert np.abs(error).max() <= 0.15 + 1e-5
    np.testing.assert_allclose(noisy.points[:, :3] / (ranges + error)[:, None], exact.points[:, :3] / ranges[:, None],
                               atol=1e-5)


def test_returns_are_lost_at_random_and_where_they_are_weak():
    def returned(sensor: Lidar, **wall: float) -> int:
        return int((scan(walled(**wall), sensor).semantic == BUILDING_ID).sum())

    far = replace(EXACT, reach=500.0)
    everything = returned(far, distance=60.0)
    assert returned(replace(far, dropout=0.3), distance=60.0) == pytest.approx(0.7 * everything, rel=0.05)
    bright, dark = (returned(EXACT, distance=60.0, colour=colour) for colour in (0.5, 0.005))
    assert everything >= bright > 0.5 * everything > 2 * dark
    assert returned(EXACT, distance=60.0, visibility=20.0) < 0.5 * bright
    assert returned(replace(EXACT, reach=50.0), distance=60.0) == 0
    strength = [scan(walled(colour=colour), EXACT) for colour in (0.2, 0.8)]
    low, high = (seen.points[seen.semantic == BUILDING_ID, 3] for seen in strength)
    assert low.min() >= 0 and high.max() <= 1 and high.mean() == pytest.approx(4 * low.mean(), rel=0.05)


def test_points_lie_on_what_they_are_labelled_with(frames):
    for scene, _, seen, _ in frames:
        for index, item in enumerate(scene.objects):
            own = seen.points[seen.instance == index + 1]
            x, y, z, length, width, height, yaw = item.box
            local = to_frame(to_ego(own, scene), Pose(x, y, z, yaw))
            assert (np.abs(local) <= np.array([length, width, height]) / 2 + 3 * SENSOR.noise + 1e-4).all()
        exact = scan(scene, replace(SENSOR, noise=0.0))
        assert np.abs(exact.points[np.isin(exact.semantic, (ROAD_ID, LINE_ID)), 2] + SENSOR.height).max() < 1e-4
        np.testing.assert_array_equal(exact.instance, seen.instance)  # noise moves points, nothing else
        assert np.linalg.norm(exact.points[:, :3] - seen.points[:, :3], axis=1).max() <= 3 * SENSOR.noise + 1e-4


def test_conceptual_cloud_changes_objects_only(frames):
    for scene, _, seen, rows in frames:
        which = [row.index for row in rows if row.name != 'DontCare']
        points, label = conceptual(scene, SENSOR, seen, which)
        rest = ~np.isin(seen.instance, np.array(which) + 1)
        np.testing.assert_array_equal(points[:rest.sum()], seen.points[rest])
        assert not np.isin(label[:rest.sum()] >> 16, np.array(which) + 1).any()
        before, after = np.bincount(seen.instance, minlength=20), np.bincount(label >> 16, minlength=20)
        assert (after >= before).all()
        assert after[np.array(which) + 1].sum() > 6 * before[np.array(which) + 1].sum()
        np.testing.assert_array_equal(label[:rest.sum()], seen.label[rest])
        item = scene.objects[which[0]]
        own = points[label >> 16 == which[0] + 1]
        local = to_frame(to_ego(own, scene), Pose(*item.box[:3], item.yaw))
        assert (np.abs(local) <= np.array(item.box[3:6]) / 2 + 0.07).all()


def test_dense_scan_is_ten_times_denser_and_complete(frames):
    scene = frames[0][0]
    alone = replace(scene, primitives=Primitives.place([(item.parts, item.position, item.yaw)
                                                        for item in scene.objects]))
    for index in range(len(scene.objects)):
        body = replace(alone, primitives=Primitives.place([(scene.objects[index].parts, scene.objects[index].position,
                                                            scene.objects[index].yaw)]),
                       objects=(scene.objects[index],), semantic=scene.semantic[[index]])
        fine = Lidar(beams=(SENSOR.beams - 1) * 5 + 1, low=SENSOR.low, high=SENSOR.high, step=SENSOR.step / 2, noise=0,
                     dropout=0, reach=500.0)  # a whole turn of the fine rays
        bright = replace(body, weather=replace(body.weather, visibility=1e9))
        whole = scan(bright, fine)
        whole = whole.points[whole.instance == 1]
        dense = dense_scan(scene, EXACT, index).points
        assert len(whole) <= len(dense) <= len(whole) * 1.4 + 20  # glass and dark paint lose returns in a scan
        distance = np.linalg.norm(dense[:, None, :3] - whole[None, ::7, :3], axis=2).min(0)
        assert distance.max() < 1e-3


def test_sweeps_of_a_moving_vehicle():
    scene = walled()
    motion = Motion(5.0, np.zeros((0, 2)))
    pose = motion.sensor_pose(scene, EXACT, -0.3)
    assert (pose.x, pose.y, pose.yaw) == (pytest.approx(-1.5), 0, 0)
    past = scan(scene, EXACT, motion, sweep=3)
    wall = past.semantic == BUILDING_ID
    np.testing.assert_allclose(past.points[wall, 0], 21.5, atol=1e-4)
    home = np.linalg.inv(motion.sensor_pose(scene, EXACT, 0.0).matrix) @ pose.matrix
    np.testing.assert_allclose(in_frame(past.points[wall], home)[:, 0], 20, atol=1e-4)
    stored = np.array(sweep_info('x.bin', -0.3, home)['lidar_points']['lidar2sensor'])
    stock = past.points[:, :3] @ stored[:3, :3] - stored[:3, 3]  # as LoadPointsFromMultiSweeps does
    np.testing.assert_allclose(stock, in_frame(past.points, home), atol=1e-5)


def test_sweeps_of_moving_objects(frames):
    scene = frames[0][0]
    motion = sample_motion(scene)
    assert 2 <= motion.speed <= 14 and np.abs(motion.velocities).max() < 14
    assert np.linalg.norm(motion.velocities, axis=1).max() > 1
    past = scan(scene, EXACT, motion, sweep=4)
    ego = in_frame(past.points, motion.sensor_pose(scene, EXACT, -0.4).matrix)
    road = np.isin(past.semantic, (ROAD_ID, LINE_ID))
    np.testing.assert_allclose(ego[road, 2], 0, atol=1e-4)
    lines = past.semantic == LINE_ID
    assert (scene.road.zones(ego[lines, 0], ego[lines, 1]) != 0).mean() > 0.97  # paint stays where it is
    found = 0
    for index, item in enumerate(scene.objects):
        own = ego[past.instance == index + 1]
        x, y, z, length, width, height, yaw = item.box
        vx, vy = motion.velocities[index] * -0.4
        local = to_frame(own, Pose(x + vx, y + vy, z, yaw))
        assert (np.abs(local) <= np.array([length, width, height]) / 2 + 1e-3).all()
        found += len(own)
    assert found > 50


def test_sensor_limits():
    with pytest.raises(ToytownError, match='--beams 1000 must lie in 2 to 256'):
        Lidar(beams=1000)
    assert Lidar(step=0.7).columns == 514 and len(Lidar(step=0.7).azimuths(2)) == 1028
    np.testing.assert_allclose(SENSOR.elevations(5)[::5], SENSOR.elevations())


def test_points_are_the_same_everywhere():
    seen = scan(rectify(sample_scene(0, 'train', 7), (320, 192)), SENSOR)
    assert seen.points.dtype == np.float32 and seen.label.dtype == np.uint32
    assert CAR_ID in seen.semantic and len(seen.points) == len(seen.label)
    digest = hashlib.sha256(seen.points.astype('<f4').tobytes() + seen.label.astype('<u4').tobytes()).hexdigest()
    assert digest[:12] == RECORDED[VERSION]
