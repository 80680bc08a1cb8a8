"""A PointPillars small enough for a training step of a fraction of a second on a CPU."""
_base_ = '../../../configs/lidar/pointpillars_toytown-cpu.py'

point_cloud_range = [0, -10.24, -3, 20.48, 10.24, 1]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(point_cloud_range=point_cloud_range, max_voxels=(1000, 1000))),
    voxel_encoder=dict(feat_channels=[8], point_cloud_range=point_cloud_range),
    middle_encoder=dict(in_channels=8, output_shape=[64, 64]),
    backbone=dict(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 8]),
    neck=dict(in_channels=[8, 8, 8], out_channels=[8, 8, 8]),
    bbox_head=dict(
        in_channels=24,
        feat_channels=24,
        anchor_generator=dict(ranges=[[0, -10.24, -1.54, 20.48, 10.24, -1.54]] * 3)))
