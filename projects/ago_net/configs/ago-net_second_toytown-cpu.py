"""The small SECOND on LiDAR Toytown, its twin on conceptual clouds teaches it; one CPU core."""
_base_ = '../../../configs/lidar/second_toytown-cpu.py'

conceptual_root = 'data/toytown_kitti/conceptual_built/'
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

distill = dict(
    type='mmpapers.AGONet',
    teacher='conceptual_second_toytown-cpu.py',
    checkpoint='work_dirs/conceptual_second_toytown-cpu/epoch_6.pth')
