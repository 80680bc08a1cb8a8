"""A small TTFNet on Toytown that trains in minutes on two CPU cores; the numbers are ours."""
_base_ = [
    './_base_/ttfnet_r18.py', '../../../configs/_base_/datasets/toytown_detection.py',
    '../../../configs/_base_/runtimes/det.py'
]

model = dict(
    backbone=dict(base_channels=24, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=(24, 48, 96, 192), out_channels=(64, 32, 24), shortcut_convs=(1, 1, 1), use_dcn=False),
    bbox_head=dict(num_classes=4, in_channels=24, heatmap_channels=32, heatmap_convs=1, wh_channels=32))

train_dataloader = dict(batch_size=4, num_workers=1)
val_dataloader = dict(batch_size=8, num_workers=1)
test_dataloader = dict(batch_size=8, num_workers=1)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.01),
    paramwise_cfg=dict(_delete_=True, bias_decay_mult=0., norm_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=16, T_max=16, eta_min=1e-5, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=16, val_interval=8)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(checkpoint=dict(interval=8, max_keep_ckpts=1, save_best='coco/bbox_mAP'))
auto_scale_lr = dict(base_batch_size=4)
