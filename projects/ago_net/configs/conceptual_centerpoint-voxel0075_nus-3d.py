"""CenterPoint of mmdet3d on conceptual clouds of nuScenes: the twin that teaches."""
_base_ = 'mmdet3d::centerpoint/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

conceptual_root = 'data/nuscenes/conceptual/'
train_pipeline = [
    _base_.train_pipeline[0],  # these clouds hold all sweeps
    _base_.train_pipeline[2],
    dict(_base_.train_pipeline[3], db_sampler=dict(
        _base_.db_sampler, data_root=conceptual_root, info_path=conceptual_root + 'nuscenes_dbinfos_train.pkl')),
    *_base_.train_pipeline[4:]
]
train_dataloader = dict(
    dataset=dict(dataset=dict(data_prefix=dict(pts='conceptual/LIDAR_TOP'), pipeline=train_pipeline)))
