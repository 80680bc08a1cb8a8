"""mmseg's DDRNet-23-slim with the recipe of rtformer-slim_camvid_cpu.py, to compare."""
_base_ = ['./rtformer-slim_camvid_cpu.py']

norm_cfg = dict(type='SyncBN', momentum=0.1)
# DDRHead gives CrossEntropyLoss no ignore_index. With a threshold above 1 this is cross-entropy over labelled pixels.
loss = dict(type='OhemCrossEntropy', thres=2.0)
model = dict(
    backbone=dict(_delete_=True, type='DDRNet', channels=32, ppm_channels=128, norm_cfg=norm_cfg),
    decode_head=dict(
        _delete_=True,
        type='DDRHead',
        in_channels=128,
        channels=64,
        dropout_ratio=0.,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=[loss, dict(loss_weight=0.4, **loss)]),
    auxiliary_head=None)
