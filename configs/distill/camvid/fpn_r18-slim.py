"""Semantic FPN on a ResNet-18 of half width, from scratch on CamVid at 192x144: the student; the numbers are ours."""
_base_ = ['../_base_/camvid_192.py']

norm_cfg = dict(type='BN')
width = 32
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=_base_.crop_size),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        base_channels=width,
        stem_channels=width,
        out_indices=(0, 1, 2, 3),
        norm_cfg=norm_cfg),
    neck=dict(type='FPN', in_channels=[width, width * 2, width * 4, width * 8], out_channels=width, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[width] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=width,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=width,
        in_index=2,
        channels=width,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
