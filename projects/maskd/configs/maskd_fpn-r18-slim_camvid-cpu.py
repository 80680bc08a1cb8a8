"""Semantic FPN R34 teaches Semantic FPN R18 of half width on CamVid at 192x144, both stages here; the numbers are ours.

Masks are learned in 100 steps: the official 10,000 are a quarter of its 40,000 steps, as 100 are of these 400. They
depend on the teacher alone, so all runs share them.
"""
_base_ = '../../../configs/distill/camvid/fpn_r18-slim.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='../../../configs/distill/camvid/fpn_r34.py',
    checkpoint='work_dirs/fpn_r34/iter_800.pth',
    masks=dict(iters=100, file='work_dirs/fpn_r34/masks.pth'))
