"""The small PointPillars on conceptual clouds of LiDAR Toytown: the twin that teaches."""
_base_ = '../../../configs/lidar/pointpillars_toytown-cpu.py'

conceptual_root = 'data/toytown_kitti/conceptual_built/'
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], db_sampler=dict(
        _base_.db_sampler, data_root=conceptual_root, info_path=conceptual_root + 'kitti_dbinfos_train.pkl')),
    *_base_.train_pipeline[3:]
]
train_dataloader = dict(
    dataset=dict(data_prefix=dict(pts='conceptual_built/velodyne_reduced'), pipeline=train_pipeline))
