"""DENFI on CenterPoint with pillars of 0.2 m, nuScenes: mmdet3d's config (8 GPUs of 4 frames, 20 epochs)."""
_base_ = 'mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

model = dict(
    type='mmpapers.AuxNeckCenterPoint',
    aux_neck=dict(
        type='mmpapers.DENFINeck',
        in_channels=384,
        proposal=dict(
            num_classes=10,
            point_cloud_range=[-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
            voxel_size=[0.2, 0.2, 8],
            stride=4,
            max_distance=15.)))  # trailers and buses are longer than 10 m
