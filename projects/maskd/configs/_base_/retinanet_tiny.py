"""A quarter of RetinaNet-R18's width, for tests."""
_base_ = '../../../../configs/distill/bccd/retinanet_r18.py'

model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))
