"""Generated rooms on one CPU core: data, backbone and schedule that SparsePoint and its VoteNet control share; ours."""
_base_ = ['../../../../configs/_base_/datasets/rooms_scannet.py', '../../../../configs/_base_/runtimes/det3d.py']

model = dict(
    data_preprocessor=dict(type='Det3DDataPreprocessor'),
    backbone=dict(
        type='PointNet2SASSG',
        in_channels=4,
        num_points=(512, 256, 128, 64),  # 256 seeds
        radius=(0.2, 0.4, 0.8, 1.2),
        num_samples=(32, 16, 16, 16),
        sa_channels=((32, 32, 64), (64, 64, 64), (64, 64, 64), (64, 64, 64)),
        fp_channels=((64, 64), (64, 64)),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=True)))

train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.IndoorDuplicatesMetric')
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
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
