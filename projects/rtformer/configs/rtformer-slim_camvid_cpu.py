"""RTFormer-Slim on CamVid, cut down to about 20 minutes of a free CPU core: small crops, 1000 steps, no drop path."""
_base_ = ['./rtformer-slim_camvid.py']

iters = 1000
crop_size = (192, 256)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
model = dict(data_preprocessor=dict(size=crop_size), backbone=dict(drop_path_rate=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0025, begin=0, end=iters // 20, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=1e-6, begin=iters // 20, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=iters // 4))
