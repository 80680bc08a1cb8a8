"""TTFNet small enough for a training step of a fraction of a second on a CPU; for tests and first looks."""
_base_ = './ttfnet_r18_toytown.py'

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=(8, 16, 32, 64), out_channels=(16, 16, 16)),
    bbox_head=dict(in_channels=16, heatmap_channels=16, wh_channels=16))
