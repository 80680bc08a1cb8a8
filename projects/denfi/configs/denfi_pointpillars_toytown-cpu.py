"""DENFI on the small PointPillars of LiDAR Toytown, for one CPU core."""
_base_ = '../../../configs/lidar/pointpillars_toytown-cpu.py'

model = dict(
    type='mmpapers.AuxNeckVoxelNet',
    aux_neck=dict(
        type='mmpapers.DENFINeck',
        in_channels=96,
        proposal=dict(
            num_classes=3,
            point_cloud_range=[0, -20.48, -3, 40.96, 20.48, 1],
            voxel_size=[0.32, 0.32, 4],
            stride=2)))
