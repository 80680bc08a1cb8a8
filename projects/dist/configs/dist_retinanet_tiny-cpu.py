"""DIST small enough for a training step of a fraction of a second on a CPU; the teacher is untrained."""
_base_ = '../../../configs/distill/bccd/retinanet_r18.py'

model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))

teacher = dict(
    _base_.model,
    backbone=dict(_base_.model.backbone, base_channels=16, stem_channels=16),
    neck=dict(_base_.model.neck, in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(_base_.model.bbox_head, in_channels=32, feat_channels=32))
distill = dict(type='mmpapers.DIST', teacher=teacher, checkpoint='random', mimic=1.)
