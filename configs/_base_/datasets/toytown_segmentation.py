"""Toytown, segmentation part: 320x192 street scenes, nine classes, 255 is ignored.

Make the data with ``python -m mmpapers.datasets.toytown data/toytown --train 400 --val 100``.
"""
dataset_type = 'BaseSegDataset'
data_root = 'data/toytown/'
metainfo = dict(
    classes=('road', 'lane_marking', 'sidewalk', 'building', 'vegetation', 'sky', 'vehicle', 'pedestrian', 'cyclist'),
    palette=[[128, 64, 128], [255, 255, 255], [244, 35, 232], [70, 70, 70], [107, 142, 35], [70, 130, 180],
             [0, 0, 142], [220, 20, 60], [119, 11, 32]])
scale = (320, 192)  # (W, H), the size the images have
crop_size = (192, 320)  # (H, W)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),  # after Resize: the metric wants labels of the original size
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
