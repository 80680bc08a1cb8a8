"""Ladder, step 3: no dropout in the transformer (paper: 44.3 AP)."""
_base_ = './deformable-detr-ffn2048_r50_12e_coco.py'

attention = dict(dropout=0.0)  # --dropout 0.0; mmdet has 0.1, for deformable attention as the default of its class
ffn = dict(ffn_drop=0.0)
model = dict(
    encoder=dict(layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)))
