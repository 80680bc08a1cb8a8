"""PointPillars of mmdet3d on KITTI's conceptual clouds: the twin that teaches."""
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py'

conceptual_root = 'data/kitti/conceptual/'
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], db_sampler=dict(
        _base_.db_sampler, data_root=conceptual_root, info_path=conceptual_root + 'kitti_dbinfos_train.pkl')),
    *_base_.train_pipeline[3:]
]
train_dataloader = dict(
    dataset=dict(dataset=dict(data_prefix=dict(pts='conceptual/velodyne_reduced'), pipeline=train_pipeline)))
