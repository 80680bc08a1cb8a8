"""A small SparsePoint on generated rooms, for one CPU core; the numbers are ours."""
_base_ = ['./_base_/rooms.py']

model = dict(
    type='mmpapers.SparsePointDetector',
    bbox_head=dict(
        type='mmpapers.SparsePointHead',
        num_classes=18,
        in_channels=64,
        embed_dims=64,
        num_proposals=64,
        num_stages=3,
        num_heads=4,
        num_neighbors=24,
        ffn_channels=128,
        dropout=0.0,
        scene_quantile=0.005,
        proposals=dict(z_range=(0.1, 0.35)),  # the walls' points reach high above the furniture
        criterion=dict(
            type='mmpapers.SetCriterion3D',
            assigner=dict(
                type='mmpapers.HungarianAssigner3D',
                costs=[
                    dict(type='mmpapers.SoftmaxCost3D', weight=1.0),
                    dict(type='mmpapers.CenterL1Cost', weight=5.0),
                    dict(type='mmpapers.IoU3DCost', weight=2.0)
                ]),
            weights=dict(iou=2.0),
            no_object_weight=0.5)),  # of 0.1, duplicates keep high scores for long
    test_cfg=dict(score_thr=0.05, use_nms=False))
