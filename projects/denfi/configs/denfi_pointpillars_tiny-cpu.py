"""DENFI on a PointPillars small enough for a training step of a fraction of a second on a CPU; for tests."""
_base_ = './denfi_pointpillars_toytown-cpu.py'

voxel_size = [0.64, 0.64, 4]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(voxel_size=voxel_size)),
    voxel_encoder=dict(feat_channels=[8], voxel_size=voxel_size),
    middle_encoder=dict(in_channels=8, output_shape=[64, 64]),
    backbone=dict(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 8]),
    neck=dict(in_channels=[8, 8, 8], out_channels=[8, 8, 8]),
    aux_neck=dict(in_channels=24, proposal=dict(voxel_size=voxel_size)),
    bbox_head=dict(in_channels=24, feat_channels=24))
