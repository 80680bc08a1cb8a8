"""The smallest data sets and configs that run through the command lines: 8 images for detection, 8 for segmentation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmpapers.ops import _numba

DETECTION = '''
default_scope = 'mmdet'
data_root = {root!r}
classes = dict(classes=('red', 'blue'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 48), keep_ratio=True),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 48), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
dataset = dict(type='CocoDataset', data_root=data_root, metainfo=classes, data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, ann_file='train.json', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, ann_file='train.json', pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + '/train.json', metric='bbox')
test_evaluator = val_evaluator
model = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_eval=True, frozen_stages=1),
    neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=8, num_outs=3),
    bbox_head=dict(type='FCOSHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1, norm_cfg=None,
                   strides=[8, 16, 32], regress_ranges=((-1, 32), (32, 64), (64, 1e8))),
    test_cfg=dict(nms_pre=50, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=2),
    param_scheduler=dict(type='ParamSchedulerHook'), checkpoint=dict(type='CheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'), visualization=dict(type='DetVisualizationHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
randomness = dict(seed=0)
'''

SEGMENTATION = '''
default_scope = 'mmseg'
data_root = {root!r}
classes = dict(classes=('ground', 'thing', 'sky'), palette=[[90, 60, 30], [200, 30, 30], [90, 160, 230]])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 48), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=classes, img_suffix='.png', seg_map_suffix='.png',
               data_prefix=dict(img_path='images', seg_map_path='labels'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.] * 3, std=[64.] * 3, size=(32, 32), pad_val=0,
                           seg_pad_val=255),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg),
    decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, num_classes=3, norm_cfg=norm_cfg,
                     dropout_ratio=0.1),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
    sampler_seed=dict(type='DistSamplerSeedHook'), visualization=dict(type='SegVisualizationHook'))
log_processor = dict(by_epoch=False)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
randomness = dict(seed=0)
'''


def write_detection_set(root: Path, count: int = 8) -> Path:
    """Write ``count`` images of 96x72 with one or two coloured boxes each, and ``train.json`` in COCO's format."""
    rng = np.random.default_rng(0)
    (root / 'images').mkdir(parents=True)
    images, boxes = [], []
    for index in range(count):
        image = rng.integers(90, 160, (72, 96, 3), dtype=np.uint8)
        for category in range(1 + index % 2):
            x, y = rng.integers(4, 40), rng.integers(4, 30)
            w, h = rng.integers(16, 40), rng.integers(16, 36)
            image[y:y + h, x:x + w] = (230, 30, 30) if category == 0 else (30, 30, 230)
            boxes.append(dict(id=len(boxes) + 1, image_id=index, category_id=category + 1, iscrowd=0,
                              bbox=[int(x), int(y), int(w), int(h)], area=int(w * h)))
        Image.fromarray(image).save(root / 'images' / f'{index:03}.png')
        images.append(dict(id=index, file_name=f'{index:03}.png', width=96, height=72))
    categories = [dict(id=1, name='red'), dict(id=2, name='blue')]
    (root / 'train.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    return root


def write_segmentation_set(root: Path, count: int = 8) -> Path:
    """Write ``count`` images of 64x48 with label images of three classes and a few ignored pixels."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True)
    colours = np.array([(90, 60, 30), (200, 30, 30), (90, 160, 230)])
    for index in range(count):
        label = np.zeros((48, 64), np.uint8)
        label[:rng.integers(10, 24)] = 2
        x, y = rng.integers(5, 40), rng.integers(12, 30)
        label[y:y + 14, x:x + 16] = 1
        image = np.clip(colours[label] + rng.normal(0, 12, (48, 64, 3)), 0, 255).astype(np.uint8)
        label[:2, :5] = 255
        Image.fromarray(image).save(root / 'images' / f'{index:03}.png')
        Image.fromarray(label).save(root / 'labels' / f'{index:03}.png')
    return root


@pytest.fixture(scope='session')
def detection_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the detection set; tests only read it."""
    return write_detection_set(tmp_path_factory.mktemp('sets') / 'detection')


@pytest.fixture(scope='session')
def segmentation_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the segmentation set; tests only read it."""
    return write_segmentation_set(tmp_path_factory.mktemp('sets') / 'segmentation')


@pytest.fixture(params=['numba', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an op's test on the numba kernels and on the code for other devices."""
    if request.param == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    return request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread: these networks are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def detection_config(detection_set: Path, tmp_path: Path, one_thread: None) -> Path:
    """Config file of a detector of 0.1 M parameters: 2 epochs of 4 steps."""
    path = tmp_path / 'detector.py'
    path.write_text(DETECTION.format(root=str(detection_set)))
    return path


@pytest.fixture
def segmentation_config(segmentation_set: Path, tmp_path: Path, one_thread: None) -> Path:
    """Config file of a segmentor with batch norm and dropout: 4 steps, validation every 2."""
    path = tmp_path / 'segmentor.py'
    path.write_text(SEGMENTATION.format(root=str(segmentation_set)))
    return path


CALIBRATION = '''P0: 400 0 200 0 0 400 60 0 0 0 1 0
P1: 400 0 200 0 0 400 60 0 0 0 1 0
P2: 400 0 200 8 0 400 60 0 0 0 1 0
P3: 400 0 200 0 0 400 60 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0
'''
LABELS = (('Car', 1.5, 1.6, 3.9, -2.0, 1.6, 14.0, 0.4), ('Pedestrian', 1.7, 0.6, 0.8, 2.0, 1.6, 9.0, -1.2),
          ('Cyclist', 1.7, 0.6, 1.8, 4.0, 1.6, 18.0, 2.5), ('Van', 2.2, 1.9, 5.0, -6.0, 1.6, 22.0, 1.5))


def write_kitti_set(root: Path, frames: int = 3) -> Path:
    """Write KITTI folders: a car, a pedestrian, a cyclist, a van and a DontCare a frame, each box full of points.

    The camera stands 8 cm above and 27 cm before the LiDAR and looks ahead. Frame i holds i * 10 points of the car.
    """
    rng = np.random.default_rng(0)
    base = root / 'training'
    for folder in ('calib', 'image_2', 'label_2', 'velodyne'):
        (base / folder).mkdir(parents=True)
    for index in range(frames):
        name, rows, cloud = f'{index:06}', [], [rng.uniform((2, -20, -1.8), (40, 20, -1.7), (600, 3))]
        for label, height, width, length, x, y, z, turn in LABELS:
            x = x + 0.3 * index
            u, v = (rng.uniform(-0.49, 0.49, (2, 10 * index if label == 'Car' else 40)).T * (length, width)).T
            camera = np.stack([x + np.cos(turn) * u + np.sin(turn) * v,
                               y - height * rng.uniform(0.2, 0.99, u.shape), z - np.sin(turn) * u + np.cos(turn) * v])
            cloud.append(np.stack([camera[2] + 0.27, -camera[0], -camera[1] - 0.08], 1))
            u, v = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]).T * ((length,), (width,)) / 2
            across, depth = x + np.cos(turn) * u + np.sin(turn) * v, z - np.sin(turn) * u + np.cos(turn) * v
            column, row = (400 * across + 8) / depth + 200, [400 * level / depth + 60 for level in (y - height, y)]
            left, right, top, bottom = column.min(), column.max(), row[0].min(), row[1].max()
            rows.append(f'{label} 0 0 {turn - np.arctan2(x, z):.2f} {left:.2f} {top:.2f} {right:.2f} {bottom:.2f} '
                        f'{height} {width} {length} {x} {y} {z} {turn}')
        rows.insert(1, 'DontCare -1 -1 -10 300 40 350 60 -1 -1 -1 -1000 -1000 -1000 -10')
        points = np.concatenate(cloud)
        points = np.hstack([points, rng.uniform(0, 1, (len(points), 1))])
        points.astype(np.float32).tofile(base / f'velodyne/{name}.bin')
        (base / f'label_2/{name}.txt').write_text('\n'.join(rows) + '\n')
        (base / f'calib/{name}.txt').write_text(CALIBRATION)
        Image.fromarray(rng.integers(0, 255, (160, 400, 3), dtype=np.uint8)).save(base / f'image_2/{name}.png')
    return root


@pytest.fixture
def kitti_source(tmp_path: Path) -> Path:
    """KITTI folders of three frames, to be damaged at will."""
    return write_kitti_set(tmp_path / 'source')


@pytest.fixture(scope='session')
def kitti_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folders with mmdet3d's infos; tests only read it."""
    from mmpapers.datasets.converters.kitti import convert
    root = tmp_path_factory.mktemp('sets')
    convert(write_kitti_set(root / 'source'), root / 'kitti')
    return root / 'kitti'


@pytest.fixture
def kd(tiny_pair: Callable, tmp_path: Path) -> Path:
    """A folder with images, a student's config, its teacher's, the teacher's weights and an overlay."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    student, teacher, _ = tiny_pair('dense')
    rng, images, boxes = np.random.default_rng(0), [], []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        boxes.append(dict(id=i, image_id=i, category_id=i % 2, bbox=[8 * i, 10, 30, 25], area=750, iscrowd=0))
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=[
        dict(id=0, name='a'), dict(id=1, name='b')])))
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
             dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
        type='CocoDataset', data_root=f'{tmp_path}/', ann_file='a.json', data_prefix=dict(img=''),
        metainfo=dict(classes=('a', 'b')), pipeline=steps))
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'a.json'), metric='bbox')
    run = dict(
        default_scope='mmdet', train_dataloader=loader, val_dataloader=loader, test_dataloader=loader,
        val_evaluator=evaluator, test_evaluator=evaluator, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=.9)),
        mmpapers_hooks=dict(ValLossHook=False, CurvesHook=False))
    for name, model in (('student', student), ('teacher', teacher)):
        (tmp_path / f'{name}.py').write_text(Config(dict(run, model=model)).pretty_text)
    torch.manual_seed(0)
    init_default_scope('mmdet')
    model = MODELS.build(Config(dict(model=teacher)).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'teacher.pth')
    (tmp_path / 'kd.py').write_text(f"""
_base_ = ['./student.py']
distill = dict(type='mmpapers.FeatureMimic', teacher='./teacher.py', checkpoint='{tmp_path}/teacher.pth')
""")
    return tmp_path
