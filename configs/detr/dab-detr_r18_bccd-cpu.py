"""A small DAB-DETR on maps of stride 16: ResNet-18, 3 + 3 layers of 128 channels, 50 queries."""
_base_ = ['./_base_/bccd_160.py']

attention = dict(embed_dims=128, num_heads=8, attn_drop=0.0, proj_drop=0.0)
model = dict(
    type='DABDETR',
    num_queries=50,
    backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, )),
    neck=dict(
        type='ChannelMapper',
        in_channels=[256],
        kernel_size=1,
        out_channels=128,
        norm_cfg=None,
        act_cfg=None,
        num_outs=1),
    encoder=dict(
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, num_heads=8, dropout=0.0, batch_first=True),
            ffn_cfg=dict(
                embed_dims=128, feedforward_channels=512, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='PReLU')))),
    decoder=dict(
        num_layers=3,
        query_dim=4,
        query_scale_type='cond_elewise',
        with_modulated_hw_attn=True,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(**attention, cross_attn=False),
            cross_attn_cfg=dict(**attention, cross_attn=True),
            ffn_cfg=dict(
                embed_dims=128, feedforward_channels=512, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='PReLU')))),
    positional_encoding=dict(num_feats=64, temperature=20, normalize=True),
    bbox_head=dict(
        type='DABDETRHead',
        num_classes=3,
        embed_dims=128,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0)))
