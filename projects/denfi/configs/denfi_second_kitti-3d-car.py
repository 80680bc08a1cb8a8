"""DENFI on SECOND, KITTI, cars: mmdet3d's config and schedule (8 GPUs of 6 frames, 80 epochs)."""
_base_ = 'mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py'

model = dict(
    type='mmpapers.AuxNeckVoxelNet',
    aux_neck=dict(
        type='mmpapers.DENFINeck',
        in_channels=512,
        proposal=dict(
            num_classes=1,
            point_cloud_range=[0, -40, -3, 70.4, 40, 1],
            voxel_size=[0.05, 0.05, 0.1],
            stride=8)))
