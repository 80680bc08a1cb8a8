"""DENFI on the small SECOND of LiDAR Toytown, for one CPU core."""
_base_ = '../../../configs/lidar/second_toytown-cpu.py'

model = dict(
    type='mmpapers.AuxNeckVoxelNet',
    aux_neck=dict(
        type='mmpapers.DENFINeck',
        in_channels=96,
        proposal=dict(
            num_classes=3,
            point_cloud_range=[0, -20.48, -3, 40.96, 20.48, 1],
            voxel_size=[0.16, 0.16, 0.2],
            stride=4)))
