"""Semantic FPN on a full ResNet-34, from scratch on CamVid at 192x144: the teacher; the numbers are ours."""
_base_ = ['./fpn_r18-slim.py']

width = 64
model = dict(
    backbone=dict(depth=34, base_channels=width, stem_channels=width),
    neck=dict(in_channels=[width, width * 2, width * 4, width * 8], out_channels=width),
    decode_head=dict(in_channels=[width] * 4, channels=width),
    auxiliary_head=dict(in_channels=width, channels=width))

iters = 800
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-5, begin=50, end=iters, by_epoch=False)
]
train_cfg = dict(max_iters=iters, val_interval=iters)
