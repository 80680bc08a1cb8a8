"""CenterPoint of mmdet3d on nuScenes, its twin on conceptual clouds teaches it; the paper has no such detector."""
_base_ = 'mmdet3d::centerpoint/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

conceptual_root = 'data/nuscenes/conceptual/'
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='mmpapers.LoadConceptualPoints', conceptual_prefix=conceptual_root + 'LIDAR_TOP', load_dim=5, use_dim=5),
    _base_.train_pipeline[2],
    dict(_base_.train_pipeline[3], db_sampler=dict(
        _base_.db_sampler,
        points_loader=dict(
            type='mmpapers.LoadConceptualPoints',
            conceptual_prefix=conceptual_root + 'nuscenes_gt_database',
            load_dim=5,
            use_dim=5))),
    *_base_.train_pipeline[4:],
    dict(type='mmpapers.SplitConceptualPoints')
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))

distill = dict(
    type='mmpapers.AGONet',
    teacher='conceptual_centerpoint-voxel0075_nus-3d.py',
    checkpoint='work_dirs/conceptual_centerpoint-voxel0075_nus-3d/epoch_20.pth')

# The student goes on from the plain detector, as in the released code [tools/train.py]
load_from = 'work_dirs/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d/epoch_20.pth'
