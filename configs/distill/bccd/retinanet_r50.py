"""RetinaNet-R50 with twice the student's width in neck and head, from scratch on BCCD at 160x120: the teacher."""
_base_ = ['./retinanet_r18.py']

model = dict(
    backbone=dict(depth=50),
    neck=dict(in_channels=[256, 512, 1024, 2048], out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128))

epochs = 24
train_cfg = dict(max_epochs=24, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=24, T_max=24, eta_min=1e-5, convert_to_iter_based=True)
]
