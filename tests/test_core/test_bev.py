"""Bird's-eye pictures: where things are drawn, and the pictures of a whole test run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from mmengine.registry import HOOKS
from PIL import Image

from mmpapers.cli.test import main as run_test
from mmpapers.visualization.bev import PREDICTION, TRUTH, Seen, draw_bev, save

pytestmark = pytest.mark.det3d

BOX = np.array([[10., 3., 4., 2., 0.]])  # ahead and, for a LiDAR, to the left; facing ahead for a LiDAR
CAR = np.zeros(1, int)

DETECTOR = '''
default_scope = 'mmdet3d'
area = [0, -20.48, -3, 40.96, 20.48, 1]
classes = ['Car', 'Pedestrian', 'Cyclist']
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='KittiDataset', data_root={root!r}, ann_file='kitti_infos_val.pkl', test_mode=True,
        data_prefix=dict(pts='training/velodyne_reduced'), metainfo=dict(classes=classes),
        pipeline=[
            dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
            dict(type='PointsRangeFilter', point_cloud_range=area),
            dict(type='Pack3DDetInputs', keys=['points'])]))
test_evaluator = dict(type='mmpapers.FastKittiMetric', ann_file={root!r} + '/kitti_infos_val.pkl')
test_cfg = dict(type='TestLoop')
model = dict(
    type='VoxelNet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor', voxel=True, voxel_layer=dict(
            max_num_points=8, point_cloud_range=area, voxel_size=[.64, .64, 4], max_voxels=(500, 500))),
    voxel_encoder=dict(type='PillarFeatureNet', in_channels=4, feat_channels=[8], voxel_size=[.64, .64, 4],
                       point_cloud_range=area),
    middle_encoder=dict(type='PointPillarsScatter', in_channels=8, output_shape=[64, 64]),
    backbone=dict(type='SECOND', in_channels=8, layer_nums=[1], layer_strides=[2], out_channels=[8]),
    neck=dict(type='SECONDFPN', in_channels=[8], upsample_strides=[1], out_channels=[8]),
    bbox_head=dict(
        type='Anchor3DHead', num_classes=3, in_channels=8, feat_channels=8, use_direction_classifier=True,
        anchor_generator=dict(
            type='Anchor3DRangeGenerator', ranges=[[0, -20.48, -1.7, 40.96, 20.48, -1.7]] * 3,
            sizes=[[3.9, 1.6, 1.5], [.8, .6, 1.7], [1.8, .6, 1.7]], rotations=[0, 1.57], reshape_out=False),
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True), loss_bbox=dict(type='mmdet.SmoothL1Loss'),
        loss_dir=dict(type='mmdet.CrossEntropyLoss')),
    test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_thr=.1, score_thr=.0, min_bbox_size=0, nms_pre=40,
                  max_num=10))
default_hooks = dict(visualization=dict(type='Det3DVisualizationHook'))
visualizer = dict(type='Det3DLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
'''


def outlines(figure, colour):
    """Corners of the boxes (N, 4, 2) and their lines to the front (N, 2, 2), in metres right and up the page."""
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)
             and tuple(c.get_colors()[0][:3]) == tuple(int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))]
    segments = [np.array(c.get_segments()) for c in found]
    return segments[0][:, :4], segments[1] if len(segments) > 1 else None


@pytest.mark.parametrize(('coordinates', 'centre', 'front'), [
    ('lidar', (-3, 10), (-3, 12)), ('nuscenes', (10, 3), (12, 3)), ('depth', (10, 3), (12, 3)),
    ('camera', (10, 3), (12, 3))])
def test_where_boxes_are(coordinates, centre, front):
    """LiDAR boxes are turned so that ahead is up; the other coordinates are drawn as they are."""
    corners, heading = outlines(draw_bev(None, Seen(BOX, CAR), coordinates=coordinates), TRUTH)
    np.testing.assert_allclose(corners.mean(1), [centre], atol=1e-9)
    np.testing.assert_allclose(heading, [[centre, front]], atol=1e-9)
    long = np.abs(np.subtract(front, centre)).argmax()
    assert np.ptp(corners[0, :, long]) == pytest.approx(4) and np.ptp(corners[0, :, 1 - long]) == pytest.approx(2)


def test_yaw():
    """A positive yaw turns counter-clockwise, as in mmdet3d's own corners."""
    from mmdet3d.structures import CameraInstance3DBoxes, DepthInstance3DBoxes, LiDARInstance3DBoxes

    from mmpapers.hooks.bev_pictures import coordinates_of, seen
    for kind in (LiDARInstance3DBoxes, DepthInstance3DBoxes, CameraInstance3DBoxes):
        plane = (0, 2) if kind is CameraInstance3DBoxes else (0, 1)
        boxes = kind(torch.tensor([[9., 2, 4, 4.2, 1.8, 1.5, .4], [3, 1, 8, 2, 3, 1.6, -2]]))
        corners, _ = outlines(draw_bev(None, seen(boxes, torch.zeros(2)), coordinates=coordinates_of(boxes)), TRUTH)
        if kind is LiDARInstance3DBoxes:
            corners = np.stack([corners[..., 1], -corners[..., 0]], -1)
        expected = boxes.corners[:, :, plane].numpy().round(3)
        for ours, theirs in zip(corners, expected):
            assert max(np.abs(theirs - point).sum(1).min() for point in ours) < .01
            assert len({tuple(point) for point in ours.round(1).tolist()}) == 4


def test_ahead():
    """The axes say where ahead is; nuScenes' LiDAR looks along y."""
    from mmdet3d.structures import DepthInstance3DBoxes, LiDARInstance3DBoxes

    from mmpapers.hooks.bev_pictures import coordinates_of
    boxes = torch.zeros(1, 7)
    for kind, dataset, side, ahead in (
            (LiDARInstance3DBoxes, 'kitti', 'y, metres to the left', 'x, metres ahead'),
            (LiDARInstance3DBoxes, 'nuscenes', 'x, metres to the right', 'y, metres ahead'),
            (DepthInstance3DBoxes, None, 'x, metres', 'y, metres')):
        axes = draw_bev(None, Seen(BOX, CAR), coordinates=coordinates_of(kind(boxes), dataset)).axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (side, ahead)


def test_what_is_said():
    """Scores under the threshold and labels that are no class are left out, and counted in the legend."""
    boxes = np.repeat(BOX, 4, 0) + np.arange(4)[:, None] * (6, 0, 0, 0, 0)
    found = Seen(boxes, np.array([0, 1, 1, -1]), np.array([.9, .31, .29, .9]))
    figure = draw_bev(np.zeros((1, 3)), Seen(boxes, np.array([0, 0, 1, -1])), found, ['Car', 'Van'],
                      title='frame 7', limits=(0, -20, 40, 20))
    assert len(outlines(figure, TRUTH)[0]) == 3 and len(outlines(figure, PREDICTION)[0]) == 2
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ['Car 0.90', 'Van 0.31']
    legend = axes.get_legend()
    assert legend.get_title().get_text() == 'frame 7'
    assert [text.get_text() for text in legend.get_texts()] == [
        'ground truth: 2 Car, 1 Van', 'predictions, score 0.3 or more: 1 Car, 1 Van']
    flat = draw_bev(None, None, Seen(BOX, CAR, np.ones(1), headed=False))
    assert outlines(flat, PREDICTION)[1] is None and flat.axes[0].texts[0].get_text() == '0 1.00'


def test_names_do_not_cover_each_other():
    """Of predictions in one place only the best is named."""
    found = Seen(np.repeat(BOX, 5, 0), np.zeros(5, int), np.linspace(.5, .9, 5))
    assert [text.get_text() for text in draw_bev(None, None, found, ['Car']).axes[0].texts] == ['Car 0.90']


def test_extent():
    """The picture holds the predictions and the points; limits are in the boxes' coordinates."""
    points = np.random.default_rng(0).uniform((0, -30, -2), (60, 10, 1), (3000, 3))
    far = Seen(BOX + (500, 0, 0, 0, 0), CAR)
    figure = draw_bev(points, far, Seen(BOX, CAR, np.ones(1)))
    left, right = figure.axes[0].get_xlim()
    bottom, top = figure.axes[0].get_ylim()
    assert -14 < left < -9.5 and 29 < right < 34 and -4 < bottom < 1 and 59 < top < 64
    assert '(1 outside the picture)' in figure.axes[0].get_legend().get_texts()[0].get_text()
    figure = draw_bev(points, limits=(0, -20, 50, 10))
    assert figure.axes[0].get_xlim() == (-10, 20) and figure.axes[0].get_ylim() == (0, 50)


@pytest.mark.parametrize('points', [None, np.zeros((0, 4)), np.full((3, 4), np.nan), np.array([[1., 2, np.inf, 0]])])
def test_nothing_to_draw(points, tmp_path):
    save(draw_bev(points, size=3), tmp_path / 'deep/a.png')
    assert Image.open(tmp_path / 'deep/a.png').size[0] > 200


def test_unknown_coordinates():
    with pytest.raises(ValueError, match="one of lidar, nuscenes, depth, camera, not 'radar'"):
        draw_bev(None, coordinates='radar')


def test_colours_reach_the_file(tmp_path):
    """Both kinds of boxes and the points are there to be seen."""
    points = np.random.default_rng(0).uniform((0, -10, -2), (20, 10, 1), (2000, 3))
    found = Seen(BOX + (0, 4, 0, 0, 1), CAR, np.ones(1))
    save(draw_bev(points, Seen(BOX, CAR), found, ['Car'], size=5), tmp_path / 'a.png')
    pixels = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB')).astype(int)
    for colour in (TRUTH, PREDICTION):
        wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(2) < 12).sum() > 100
    green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 20)
    assert green.sum() > 500, 'points of middle height'


def test_show_dir(kitti_set, tmp_path, one_thread):
    """``tools/test.py --show-dir`` draws every frame of a stock detector and evaluates, without open3d or a display."""
    config, weights = tmp_path / 'pillars.py', tmp_path / 'none.pth'
    config.write_text(DETECTOR.format(root=str(kitti_set)))
    torch.save(dict(state_dict={}), weights)
    code = run_test([str(config), str(weights), '--work-dir', str(tmp_path / 'work'), '--show-dir', 'above',
                      '--score-thr', '0.0'])
    assert code == 0
    run = next(path.parent for path in (tmp_path / 'work').glob('*/metrics.json'))
    assert sorted(path.name for path in (run / 'above').iterdir()) == ['000000.png', '000001.png', '000002.png']
    assert all(Image.open(path).size[0] > 400 for path in (run / 'above').iterdir())
    metrics = json.loads((run / 'metrics.json').read_text())
    assert 'Kitti metric/pred_instances_3d/KITTI/Car_3D_AP40_moderate_strict' in metrics


class Sample(dict):
    """Data sample with its fields as attributes."""

    __getattr__ = dict.__getitem__


class FakeRunner:
    """What the hook needs of a runner."""

    def __init__(self, folder: Path) -> None:
        self.log_dir = folder
        self.test_dataloader = Sample(dataset=Sample(metainfo=dict(classes=['bed'])))


def test_hook(tmp_path):
    """Depth boxes without points; names from image or number; ``most`` frames."""
    from mmdet3d.structures import DepthInstance3DBoxes
    hook, runner = HOOKS.build(dict(type='mmpapers.BEVPicturesHook', folder='x', most=2)), FakeRunner(tmp_path)
    boxes = DepthInstance3DBoxes(torch.tensor([[1., 2, 0, 1, 2, 1]]), box_dim=6, with_yaw=False)
    found = Sample(bboxes_3d=boxes, labels_3d=torch.zeros(1).long(), scores_3d=torch.ones(1))
    samples = [Sample(pred_instances_3d=found, img_path='a/b.jpg'), Sample(pred_instances_3d=found),
               Sample(pred_instances_3d=found)]
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, dict(inputs=dict(img=[])), samples)
    assert sorted(path.name for path in (tmp_path / 'x').iterdir()) == ['000001.png', 'b.png']
    with pytest.raises(ValueError, match='predicts no pred_instances_3d.bboxes_3d'):
        HOOKS.build(dict(type='mmpapers.BEVPicturesHook')).after_test_iter(runner, 0, {}, [Sample()])
