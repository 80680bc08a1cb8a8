"""A slim RetinaNet R18 with an assistant like the teacher's box head on BCCD at 160x120, without a teacher."""
_base_ = ['../../../configs/distill/bccd/retinanet_r18.py']

rcnn = dict(
    assigner=dict(
        type='MaxIoUAssigner',
        pos_iou_thr=0.5,
        neg_iou_thr=0.5,
        min_pos_iou=0.5,
        match_low_quality=False,
        ignore_iof_thr=-1),
    sampler=dict(type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
    pos_weight=-1,
    debug=False)
bbox_head = dict(
    type='Shared2FCBBoxHead',
    in_channels=128,
    fc_out_channels=256,
    roi_feat_size=7,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]),
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='L1Loss', loss_weight=1.0))
distill = dict(
    type='mmpapers.HEAD',
    akd=False,
    ckd=False,
    proposals=dict(nms_pre=500, max_per_img=250),
    roi_head=dict(rcnn=rcnn, bbox_head=bbox_head))
