"""PointPillars of mmdet3d on conceptual clouds of nuScenes: the twin that teaches."""
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py'

train_pipeline = [
    _base_.train_pipeline[0],  # these clouds hold all sweeps
    *_base_.train_pipeline[2:]
]
train_dataloader = dict(dataset=dict(data_prefix=dict(pts='conceptual/LIDAR_TOP'), pipeline=train_pipeline))
