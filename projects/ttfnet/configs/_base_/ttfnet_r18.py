"""TTFNet-18 and its optimizer. Source of every number: official configs/ttfnet/ttfnet_r18_1x.py, unless noted."""
model = dict(
    type='mmpapers.TTFNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(
        type='mmpapers.TTFNeck',
        in_channels=(64, 128, 256, 512),
        out_channels=(256, 128, 64),  # mmdet/models/anchor_heads/ttf_head.py, `planes`
        shortcut_convs=(1, 2, 3)),
    bbox_head=dict(
        type='mmpapers.TTFHead',
        num_classes=80,
        in_channels=64,
        heatmap_channels=128,
        heatmap_convs=2,
        wh_channels=64,
        wh_convs=1,
        wh_scale=16.,
        target=dict(type='mmpapers.TTFGaussianTarget', alpha=0.54),
        loss_heatmap=dict(type='mmdet.GaussianFocalLoss', alpha=2.0, gamma=4.0, loss_weight=1.),
        loss_bbox=dict(type='mmdet.GIoULoss', loss_weight=5.)),
    test_cfg=dict(score_thr=0.01, max_per_img=100))

twice_the_rate = dict(lr_mult=2., decay_mult=0.)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.016, momentum=0.9, weight_decay=0.0004),
    # mmdetection 1.x excepts norms by the name "bn", which those of the neck did not have, and offsets not at all.
    paramwise_cfg=dict(
        bias_lr_mult=2.,
        bias_decay_mult=0.,
        norm_decay_mult=1.,
        custom_keys={
            'neck.stages.0.1.bias': twice_the_rate,
            'neck.stages.1.1.bias': twice_the_rate,
            'neck.stages.2.1.bias': twice_the_rate,
            'conv_offset.bias': twice_the_rate
        }),
    clip_grad=dict(max_norm=35, norm_type=2))
