"""A small VoteNet on generated rooms, the control of SparsePoint: same backbone, data, schedule; mmdet3d's losses."""
_base_ = ['./_base_/rooms.py']

model = dict(
    type='VoteNet',
    bbox_head=dict(
        type='VoteHead',
        num_classes=18,
        bbox_coder=dict(
            type='PartialBinBasedBBoxCoder',
            num_sizes=18,
            num_dir_bins=1,
            with_rot=False,
            mean_sizes=[  # of ScanNet, as in mmdet3d's config
                [0.770, 0.812, 0.926], [1.877, 1.843, 1.193], [0.613, 0.615, 0.718], [1.396, 1.512, 0.834],
                [0.979, 1.068, 0.633], [0.532, 0.596, 1.750], [0.962, 0.725, 1.148], [0.832, 1.049, 1.688],
                [0.211, 0.421, 0.537], [1.444, 1.897, 0.270], [1.029, 1.404, 0.876], [1.377, 0.655, 1.681],
                [0.665, 0.711, 1.299], [0.420, 0.379, 1.751], [0.594, 0.591, 0.739], [0.509, 0.507, 0.301],
                [1.151, 1.055, 0.497], [0.475, 0.492, 0.580]
            ]),
        vote_module_cfg=dict(
            in_channels=64, vote_per_seed=1, gt_per_seed=3, conv_channels=(64, 64), conv_cfg=dict(type='Conv1d'),
            norm_cfg=dict(type='BN1d'), norm_feats=True,
            vote_loss=dict(type='ChamferDistance', mode='l1', reduction='none', loss_dst_weight=10.0)),
        vote_aggregation_cfg=dict(
            type='PointSAModule', num_point=64, radius=0.3, num_sample=16, mlp_channels=[64, 64, 64, 64], use_xyz=True,
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
    test_cfg=dict(sample_mode='seed', nms_thr=0.25, score_thr=0.05, per_class_proposal=True))
