"""A small VoteNet on one SUN RGB-D view of a bed and a night stand: 8192 of its 50000 points at a time."""
_base_ = ['../../_base_/datasets/sunrgbd.py', './_base_/votenet.py']

data_root = 'data/sunrgbd_sample/'
num_points = 8192

train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='DEPTH', shift_height=True, load_dim=6, use_dim=[0, 1, 2, 0, 1]),
    dict(type='LoadAnnotations3D'),
    dict(type='PointSample', num_points=num_points),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='DEPTH', shift_height=True, load_dim=6, use_dim=[0, 1, 2, 0, 1]),
    dict(type='PointSample', num_points=num_points),
    dict(type='Pack3DDetInputs', keys=['points'])
]
frame = dict(data_root=data_root, ann_file='infos.pkl', data_prefix=dict(pts='points', img='image'))
train_dataloader = dict(
    batch_size=2,  # two draws of its points
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(times=2, dataset=dict(**frame, pipeline=train_pipeline)))
val_dataloader = dict(num_workers=0, dataset=dict(**frame, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.IndoorDuplicatesMetric')
test_evaluator = val_evaluator

model = dict(
    bbox_head=dict(
        num_classes=10,
        bbox_coder=dict(
            type='PartialBinBasedBBoxCoder',
            num_sizes=10,
            num_dir_bins=12,
            with_rot=True,
            mean_sizes=[  # of SUN RGB-D, as in mmdet3d's config
                [2.114, 1.620, 0.927], [0.791, 1.280, 0.718], [0.924, 1.867, 0.845], [0.592, 0.553, 0.827],
                [0.699, 0.454, 0.756], [0.695, 1.346, 0.736], [0.529, 1.003, 1.173], [0.501, 0.632, 0.683],
                [0.405, 1.071, 1.689], [0.766, 1.398, 0.473]
            ])))
