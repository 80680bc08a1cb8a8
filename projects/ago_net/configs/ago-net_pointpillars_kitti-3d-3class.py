"""PointPillars of mmdet3d on KITTI, its twin on conceptual clouds teaches it."""
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py'

conceptual_root = 'data/kitti/conceptual/'
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='mmpapers.LoadConceptualPoints', conceptual_prefix=conceptual_root + 'velodyne_reduced'),
    _base_.train_pipeline[1],
    dict(_base_.train_pipeline[2], db_sampler=dict(
        _base_.db_sampler,
        points_loader=dict(
            type='mmpapers.LoadConceptualPoints', conceptual_prefix=conceptual_root + 'kitti_gt_database'))),
    *_base_.train_pipeline[3:],
    dict(type='mmpapers.SplitConceptualPoints')
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))

distill = dict(
    type='mmpapers.AGONet',
    teacher='conceptual_pointpillars_kitti-3d-3class.py',
    checkpoint='work_dirs/conceptual_pointpillars_kitti-3d-3class/epoch_80.pth')

# The student goes on from the plain detector, as in the released code [tools/train.py]
load_from = 'work_dirs/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class/epoch_80.pth'
