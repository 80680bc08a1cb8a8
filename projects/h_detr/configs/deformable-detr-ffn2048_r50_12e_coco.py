"""Ladder, step 2: wider feed-forward layers (paper: 43.7 AP); the released code calls this Deformable-DETR."""
_base_ = './deformable-detr_r50_12e_coco.py'

ffn = dict(feedforward_channels=2048)  # --dim_feedforward 2048; mmdet has 1024
model = dict(
    encoder=dict(layer_cfg=dict(ffn_cfg=ffn)),
    decoder=dict(layer_cfg=dict(ffn_cfg=ffn)))
