"""RTFormer-Slim with its losses and optimiser, for any segmentation data set; the other configs build on it."""
_base_ = ['../../../configs/_base_/runtimes/seg.py']

# Torch's momentum. The released code has 0.9 in this sense (0.1 in Paddle's), which keeps little but the last batch.
norm_cfg = dict(type='SyncBN', momentum=0.1)
loss = dict(type='CrossEntropyLoss', avg_non_ignore=True)  # released code: mean over the labelled pixels
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmpapers.RTFormer',
        base_channels=32,  # released configs, as the other values of the model
        use_injection=(True, True),
        drop_path_rate=0.2,
        norm_cfg=norm_cfg),
    decode_head=dict(
        type='mmpapers.RTFormerHead',
        in_channels=128,
        in_index=1,
        channels=128,
        num_classes=19,
        norm_cfg=norm_cfg,
        loss_decode=loss),
    auxiliary_head=dict(
        type='mmpapers.RTFormerHead',
        in_channels=64,
        in_index=0,
        channels=64,
        num_classes=19,
        norm_cfg=norm_cfg,
        loss_decode=dict(loss_weight=0.4, **loss)),  # released configs
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, betas=(0.9, 0.999), weight_decay=0.0125),  # released configs, Cityscapes
    paramwise_cfg=dict(custom_keys={  # released code: context module and heads learn ten times as fast
        'backbone.spp': dict(lr_mult=10),
        'decode_head': dict(lr_mult=10),
        'auxiliary_head': dict(lr_mult=10)
    }))
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
