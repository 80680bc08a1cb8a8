"""SparsePoint at its full size. Without released code, every number is our choice, after VoteNet and 3DETR."""
model = dict(
    type='mmpapers.SparsePointDetector',
    data_preprocessor=dict(type='Det3DDataPreprocessor'),
    backbone=dict(  # VoteNet's
        type='PointNet2SASSG',
        in_channels=4,
        num_points=(2048, 1024, 512, 256),
        radius=(0.2, 0.4, 0.8, 1.2),
        num_samples=(64, 32, 16, 16),
        sa_channels=((64, 64, 128), (128, 128, 256), (128, 128, 256), (128, 128, 256)),
        fp_channels=((256, 256), (256, 256)),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=True)),
    bbox_head=dict(
        type='mmpapers.SparsePointHead',
        in_channels=256,
        embed_dims=256,
        num_proposals=256,
        num_stages=6,
        num_heads=8,
        num_neighbors=64,
        ffn_channels=1024,
        dropout=0.1,
        gather='local',
        criterion=dict(
            type='mmpapers.SetCriterion3D',
            assigner=dict(
                type='mmpapers.HungarianAssigner3D',
                costs=[
                    dict(type='mmpapers.SoftmaxCost3D', weight=1.0),
                    dict(type='mmpapers.CenterL1Cost', weight=5.0),
                    dict(type='mmpapers.IoU3DCost', weight=2.0, giou=True)
                ]),
            weights=dict(cls=1.0, center=5.0, size=1.0, iou=2.0, dir_cls=0.1, dir_res=0.5),
            no_object_weight=0.1,
            giou=True)),
    test_cfg=dict(score_thr=0.05, use_nms=False))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=2.0, decay_mult=0.002))),
    clip_grad=dict(max_norm=0.1, norm_type=2))
epochs = 36  # of five passes each
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=epochs, T_max=epochs, eta_min=1e-6,
         convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
