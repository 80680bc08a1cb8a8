"""The student on BCCD at 160x120, trained plainly: half the width of its teacher, 2 + 2 layers instead of 3 + 3."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

attention = dict(embed_dims=64)
ffn = dict(embed_dims=64, feedforward_channels=256)
model = dict(
    neck=dict(out_channels=64),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=32),
    bbox_head=dict(embed_dims=64))
