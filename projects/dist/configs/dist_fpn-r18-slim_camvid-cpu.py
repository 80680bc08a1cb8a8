"""Semantic FPN R18 of half width on CamVid at 192x144, Semantic FPN R34 teaches its logits; one CPU core."""
_base_ = '../../../configs/distill/camvid/fpn_r18-slim.py'

distill = dict(
    type='mmpapers.DIST',
    teacher='../../../configs/distill/camvid/fpn_r34.py',
    checkpoint='work_dirs/fpn_r34/iter_800.pth')
