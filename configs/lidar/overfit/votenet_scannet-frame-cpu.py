"""A small VoteNet on one ScanNet scene of 27 objects: 16384 of its 40684 points at a time.

Votes come from the boxes, as on SUN RGB-D, because the sample has no instance masks: hence ``with_rot``, with one bin
of yaw, whose target is 0.
"""
_base_ = ['../../_base_/datasets/scannet.py', './_base_/votenet.py']

data_root = 'data/scannet_sample/'
num_points = 16384

train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='DEPTH', shift_height=True, load_dim=6, use_dim=[0, 1, 2, 0, 1]),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='GlobalAlignment', rotation_axis=2),
    dict(type='PointSample', num_points=num_points),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='DEPTH', shift_height=True, load_dim=6, use_dim=[0, 1, 2, 0, 1]),
    dict(type='GlobalAlignment', rotation_axis=2),
    dict(type='PointSample', num_points=num_points),
    dict(type='Pack3DDetInputs', keys=['points'])
]
frame = dict(data_root=data_root, ann_file='infos.pkl')
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(times=1, dataset=dict(**frame, pipeline=train_pipeline)))
val_dataloader = dict(num_workers=0, dataset=dict(**frame, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpapers.IndoorDuplicatesMetric')
test_evaluator = val_evaluator

model = dict(
    bbox_head=dict(
        num_classes=18,
        bbox_coder=dict(
            type='PartialBinBasedBBoxCoder',
            num_sizes=18,
            num_dir_bins=1,
            with_rot=True,
            mean_sizes=[  # of ScanNet, as in mmdet3d's config
                [0.770, 0.812, 0.926], [1.877, 1.843, 1.193], [0.613, 0.615, 0.718], [1.396, 1.512, 0.834],
                [0.979, 1.068, 0.633], [0.532, 0.596, 1.750], [0.962, 0.725, 1.148], [0.832, 1.049, 1.688],
                [0.211, 0.421, 0.537], [1.444, 1.897, 0.270], [1.029, 1.404, 0.876], [1.377, 0.655, 1.681],
                [0.665, 0.711, 1.299], [0.420, 0.379, 1.751], [0.594, 0.591, 0.739], [0.509, 0.507, 0.301],
                [1.151, 1.055, 0.497], [0.475, 0.492, 0.580]
            ])))
