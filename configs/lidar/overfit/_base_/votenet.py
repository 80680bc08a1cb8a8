"""A small VoteNet for one CPU core, which also gets x and y as features.

A point's place in the room lets it learn one room by heart, in twice the steps of a grid of anchors; from shapes alone
it takes much longer.
"""
_base_ = ['./frame.py']

steps = 600
param_scheduler = [dict(type='OneCycleLR', eta_max=0.005, total_steps=steps, pct_start=0.3, by_epoch=False)]
train_cfg = dict(max_iters=steps, val_interval=steps)
default_hooks = dict(checkpoint=dict(interval=steps))

model = dict(
    type='VoteNet',
    data_preprocessor=dict(type='Det3DDataPreprocessor'),
    backbone=dict(
        type='PointNet2SASSG',
        in_channels=6,  # x, y, z, height above the floor, x, y
        num_points=(1024, 512, 256, 128),  # 512 seeds
        radius=(0.2, 0.4, 0.8, 1.2),
        num_samples=(32, 16, 16, 16),
        sa_channels=((32, 32, 64), (64, 64, 64), (64, 64, 64), (64, 64, 64)),
        fp_channels=((64, 64), (64, 64)),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=True)),
    bbox_head=dict(
        type='VoteHead',
        vote_module_cfg=dict(
            in_channels=64, vote_per_seed=1, gt_per_seed=3, conv_channels=(64, 64), conv_cfg=dict(type='Conv1d'),
            norm_cfg=dict(type='BN1d'), norm_feats=True,
            vote_loss=dict(type='ChamferDistance', mode='l1', reduction='none', loss_dst_weight=10.0)),
        vote_aggregation_cfg=dict(
            type='PointSAModule', num_point=128, radius=0.3, num_sample=16, mlp_channels=[64, 64, 64, 64], use_xyz=True,
            normalize_xyz=True),
        pred_layer_cfg=dict(in_channels=64, shared_conv_channels=(64, 64), bias=True),
        objectness_loss=dict(
            type='mmdet.CrossEntropyLoss', class_weight=[0.2, 0.8], reduction='sum', loss_weight=5.0),
        center_loss=dict(
            type='ChamferDistance', mode='l2', reduction='sum', loss_src_weight=10.0, loss_dst_weight=10.0),
        dir_class_loss=dict(type='mmdet.CrossEntropyLoss', reduction='sum', loss_weight=1.0),
        dir_res_loss=dict(type='mmdet.SmoothL1Loss', reduction='sum', loss_weight=10.0),
        size_class_loss=dict(type='mmdet.CrossEntropyLoss', reduction='sum', loss_weight=1.0),
        size_res_loss=dict(type='mmdet.SmoothL1Loss', reduction='sum', loss_weight=10.0 / 3.0),
        semantic_loss=dict(type='mmdet.CrossEntropyLoss', reduction='sum', loss_weight=1.0)),
    train_cfg=dict(pos_distance_thr=0.3, neg_distance_thr=0.6, sample_mode='vote'),
    test_cfg=dict(sample_mode='seed', nms_thr=0.25, score_thr=0.05, per_class_proposal=False))
