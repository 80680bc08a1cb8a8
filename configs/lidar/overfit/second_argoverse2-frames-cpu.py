"""A small SECOND on three Argoverse 2 sweeps: voxels of 0.2 x 0.2 x 0.25 m, up to 26 m to each side.

Four of the thirty categories, objects that hold a point. Intensity, 0 to 255, is left out. Average precision is by 3D
overlap, for the objects within the range.
"""
_base_ = ['./_base_/frame.py']

data_root = 'data/av2_sample/'
class_names = ('REGULAR_VEHICLE', 'PEDESTRIAN', 'BICYCLE', 'BUS')
point_cloud_range = [-25.6, -25.6, -3, 25.6, 25.6, 3]  # the ego frame begins on the ground
voxel_size = [0.2, 0.2, 0.25]

train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=3),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=3),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]
frames = dict(
    type='mmpapers.LidarInfosDataset',
    data_root=data_root,
    ann_file='infos.pkl',
    data_prefix=dict(pts=''),
    metainfo=dict(classes=class_names),
    min_points=1)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**frames, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**frames, pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.IndoorDuplicatesMetric', limits=point_cloud_range)
test_evaluator = val_evaluator

large = dict(type='Max3DIoUAssigner', iou_calculator=dict(type='mmdet3d.BboxOverlapsNearest3D'),
             pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45, ignore_iof_thr=-1)
small = dict(large, pos_iou_thr=0.35, neg_iou_thr=0.2, min_pos_iou=0.05)  # anchors 0.8 m apart hardly meet a bicycle
model = dict(
    type='VoxelNet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=5, point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(40000, 40000))),
    voxel_encoder=dict(type='HardSimpleVFE', num_features=3),
    middle_encoder=dict(
        type='SparseEncoder',
        in_channels=3,
        sparse_shape=[25, 256, 256],
        order=('conv', 'norm', 'act'),
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=0.1),
        base_channels=8,
        output_channels=32,
        encoder_channels=((8, ), (16, 16), (32, 32)),
        encoder_paddings=((1, ), (1, 1), (1, 1))),
    backbone=dict(
        type='SECOND', in_channels=96, layer_nums=[2, 2], layer_strides=[1, 2], out_channels=[32, 64],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    neck=dict(
        type='SECONDFPN', in_channels=[32, 64], upsample_strides=[1, 2], out_channels=[48, 48],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    bbox_head=dict(
        type='Anchor3DHead',
        num_classes=4,
        in_channels=96,
        feat_channels=96,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',
            ranges=[[-25.6, -25.6, -0.2, 25.6, 25.6, -0.2]] * 4,
            sizes=[[4.35, 1.9, 1.7], [0.7, 0.7, 1.75], [1.63, 0.53, 1.18], [11.0, 3.1, 3.1]],  # their means
            rotations=[0, 1.57],
            reshape_out=False),
        diff_rad_by_sin=True,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=0.2)),
    train_cfg=dict(assigner=[large, small, small, large], allowed_border=0, pos_weight=-1, debug=False),
    test_cfg=dict(
        use_rotate_nms=True,
        nms_across_levels=False,
        nms_thr=0.1,
        score_thr=0.1,
        min_bbox_size=0,
        nms_pre=200,
        max_num=100))
