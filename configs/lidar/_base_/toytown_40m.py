"""LiDAR Toytown for one CPU core, from scratch: what all detectors of this folder share; the numbers are ours.

Training and testing see the points inside the image only, as KITTI's do: objects outside of it have no labels.
"""
_base_ = ['../../_base_/datasets/toytown_kitti.py', '../../_base_/runtimes/det3d.py']

data_prefix = dict(pts='training/velodyne_reduced')
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_prefix=data_prefix))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_prefix=data_prefix))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.FastKittiMetric', point_bins=(10, 50, 150))
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2))
epochs = 6
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=75),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=epochs, T_max=epochs, eta_min=1e-5,
         convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
