"""The small PointPillars on LiDAR Toytown with objects that were scanned alone: the twin at its best."""
_base_ = '../../../configs/lidar/pointpillars_toytown-cpu.py'

conceptual_root = 'data/toytown_kitti/conceptual/'
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='mmpapers.PointsInImage'),
    _base_.train_pipeline[1],
    dict(_base_.train_pipeline[2], db_sampler=dict(
        _base_.db_sampler, data_root=conceptual_root, info_path=conceptual_root + 'kitti_dbinfos_train.pkl')),
    *_base_.train_pipeline[3:]
]
train_dataloader = dict(dataset=dict(data_prefix=dict(pts='conceptual/velodyne'), pipeline=train_pipeline))
