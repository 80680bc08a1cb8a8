"""A small CenterPoint on one nuScenes key frame, without sweeps: pillars of 0.32 m, up to 41 m to each side.

One task of ten classes instead of six tasks, which a CPU feels. The official metric needs the devkit and the database
of the scenes; here it is average precision by 3D overlap, for the objects within the range.
"""
_base_ = ['../../_base_/datasets/nuscenes.py', './_base_/frame.py']

data_root = 'data/nuscenes_sample/'
data_prefix = dict(pts='', img='', sweeps='')  # the infos name files from the root
point_cloud_range = [-40.96, -40.96, -5, 40.96, 40.96, 3]
voxel_size = [0.32, 0.32, 8]

train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=4),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=_base_.class_names),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=4),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]
frame = dict(data_root=data_root, ann_file='infos.pkl', data_prefix=data_prefix)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(**frame, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(**frame, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='mmpapers.IndoorDuplicatesMetric', limits=point_cloud_range)
test_evaluator = val_evaluator

model = dict(
    type='CenterPoint',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=20, point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(10000, 10000))),
    pts_voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=0.1),
        legacy=False,
        point_cloud_range=point_cloud_range),
    pts_middle_encoder=dict(type='PointPillarsScatter', in_channels=32, output_shape=[256, 256]),
    pts_backbone=dict(
        type='SECOND', in_channels=32, layer_nums=[1, 2, 2], layer_strides=[2, 2, 2], out_channels=[32, 48, 64],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    pts_neck=dict(
        type='SECONDFPN', in_channels=[32, 48, 64], upsample_strides=[1, 2, 4], out_channels=[32, 32, 32],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.1)),
    pts_bbox_head=dict(
        type='CenterHead',
        in_channels=96,
        tasks=[dict(num_class=10, class_names=_base_.class_names)],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        share_conv_channel=32,
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            post_center_range=[-45, -45, -10, 45, 45, 10],
            max_num=100,
            score_threshold=0.1,
            out_size_factor=2,
            voxel_size=voxel_size[:2],
            pc_range=point_cloud_range[:2],
            code_size=9),
        separate_head=dict(type='SeparateHead', init_bias=-2.19, final_kernel=3, head_conv=32),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        norm_bbox=True),
    train_cfg=dict(
        pts=dict(
            grid_size=[256, 256, 1],
            voxel_size=voxel_size,
            out_size_factor=2,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=100,
            min_radius=2,
            code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
            point_cloud_range=point_cloud_range)),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-45, -45, -10, 45, 45, 10],
            max_per_img=100,
            max_pool_nms=False,
            min_radius=[4],
            score_threshold=0.1,
            out_size_factor=2,
            voxel_size=voxel_size[:2],
            pc_range=point_cloud_range[:2],
            nms_type='rotate',
            pre_max_size=200,
            post_max_size=100,
            nms_thr=0.2)))
