"""DENFI on PointPillars, KITTI, three classes: mmdet3d's config and schedule (8 GPUs of 6 frames, 160 epochs)."""
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py'

model = dict(
    type='mmpapers.AuxNeckVoxelNet',
    aux_neck=dict(
        type='mmpapers.DENFINeck',
        in_channels=384,
        proposal=dict(
            num_classes=3,
            point_cloud_range=[0, -39.68, -3, 69.12, 39.68, 1],
            voxel_size=[0.16, 0.16, 4],
            stride=2)))
