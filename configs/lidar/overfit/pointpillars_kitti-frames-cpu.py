"""A small PointPillars on five KITTI frames: pillars of 0.32 m, up to 51 m ahead and 26 m to either side."""
_base_ = ['../../_base_/datasets/kitti_3class.py', './_base_/frame.py']

data_root = 'data/kitti_sample/'
point_cloud_range = [0, -25.6, -3, 51.2, 25.6, 1]  # of the 25 objects, a car 59 m away that KITTI does not count is out
voxel_size = [0.32, 0.32, 4]

train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(times=1, dataset=dict(data_root=data_root, pipeline=train_pipeline)))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.FastKittiMetric', ann_file=data_root + 'kitti_infos_val.pkl', small_set=True)
test_evaluator = val_evaluator

# Of anchors 0.64 m apart, few meet a pedestrian: hence the low min_pos_iou.
small = dict(type='Max3DIoUAssigner', iou_calculator=dict(type='mmdet3d.BboxOverlapsNearest3D'),
             pos_iou_thr=0.35, neg_iou_thr=0.2, min_pos_iou=0.05, ignore_iof_thr=-1)
model = dict(
    type='VoxelNet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=32, point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(8000, 8000))),
    voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=0.1),
        point_cloud_range=point_cloud_range),
    middle_encoder=dict(type='PointPillarsScatter', in_channels=32, output_shape=[160, 160]),
    backbone=dict(
        type='SECOND', in_channels=32, layer_nums=[1, 2, 2], layer_strides=[2, 2, 2], out_channels=[32, 48, 64],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    neck=dict(
        type='SECONDFPN', in_channels=[32, 48, 64], upsample_strides=[1, 2, 4], out_channels=[32, 32, 32],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    bbox_head=dict(
        type='Anchor3DHead',
        num_classes=3,
        in_channels=96,
        feat_channels=96,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',
            ranges=[[0, -25.6, z, 51.2, 25.6, z] for z in (-0.6, -0.6, -1.78)],  # as in mmdet3d's config
            sizes=[[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]],
            rotations=[0, 1.57],
            reshape_out=False),
        diff_rad_by_sin=True,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=0.2)),
    train_cfg=dict(
        assigner=[small, small, dict(small, pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45)],
        allowed_border=0,
        pos_weight=-1,
        debug=False),
    test_cfg=dict(
        use_rotate_nms=True,
        nms_across_levels=False,
        nms_thr=0.1,  # two pedestrians of 000134 overlap by more than mmdet3d's 0.01
        score_thr=0.1,
        min_bbox_size=0,
        nms_pre=200,
        max_num=50))
