"""HEAD small enough for a training step of a fraction of a second on a CPU; for tests and first looks."""
_base_ = ['../../../configs/distill/bccd/retinanet_r18.py']

model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, num_outs=3),
    bbox_head=dict(
        in_channels=16, feat_channels=16, stacked_convs=1, anchor_generator=dict(strides=[8, 16, 32])))

norm = dict(type='BN')
nms = dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
rcnn = dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False),
    sampler=dict(type='RandomSampler', num=32, pos_fraction=0.25, add_gt_as_proposals=True),
    pos_weight=-1,
    debug=False)
distill = dict(
    type='mmpapers.HEAD',
    checkpoint='random',
    proposals=dict(nms_pre=100, max_per_img=50),
    roi_head=dict(rcnn=rcnn),
    teacher=dict(
        type='FasterRCNN',
        _scope_='mmdet',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32),
        backbone=dict(
            type='ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3), norm_cfg=norm),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=24, num_outs=4),
        rpn_head=dict(
            type='RPNHead',
            in_channels=24,
            feat_channels=24,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32])),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
                out_channels=24,
                featmap_strides=[4, 8, 16, 32]),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=24,
                fc_out_channels=32,
                roi_feat_size=3,
                num_classes=3,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'))),
        train_cfg=None,
        test_cfg=dict(rpn=nms, rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))))
