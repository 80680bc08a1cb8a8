"""Semantic FPN R18 of half width on CamVid at 192x144, Semantic FPN R34 teaches its class scores by KL divergence."""
_base_ = './fpn_r18-slim.py'

distill = dict(type='mmpapers.KLDistill', teacher='./fpn_r34.py', checkpoint='work_dirs/fpn_r34/iter_800.pth')
