"""A quarter of RTFormer-Slim's width on Toytown: a training step takes a fraction of a second on one CPU core."""
_base_ = ['./rtformer-slim_toytown.py']

iters = 400
norm_cfg = dict(type='BN', momentum=0.1)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(96, 160), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
model = dict(
    data_preprocessor=dict(size=(96, 160)),
    backbone=dict(base_channels=8, ppm_channels=16, cross_size=4, drop_path_rate=0., norm_cfg=norm_cfg),
    decode_head=dict(in_channels=32, channels=32, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=16, channels=16, norm_cfg=norm_cfg))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=40, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=1e-6, begin=40, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=iters))
