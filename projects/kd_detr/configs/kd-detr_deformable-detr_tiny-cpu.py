"""KD-DETR on a Deformable DETR (our extension) small enough for quick steps on a CPU; untrained teacher."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

attention = dict(embed_dims=32, num_heads=2)
points = dict(embed_dims=32, num_heads=2, num_levels=2, num_points=2)
ffn = dict(embed_dims=32, feedforward_channels=64)
model = dict(
    num_queries=10,
    num_feature_levels=2,
    backbone=dict(base_channels=8, stem_channels=8, out_indices=(2, 3)),
    neck=dict(in_channels=[32, 64], out_channels=32, norm_cfg=dict(num_groups=4), num_outs=2),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=points, ffn_cfg=ffn)),
    decoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=points, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=16),
    bbox_head=dict(embed_dims=32),
    test_cfg=dict(max_per_img=10))
distill = dict(
    type='mmpapers.KDDETR',
    teacher='../../../configs/detr/deformable-detr_r18_bccd-cpu.py',
    checkpoint='random',
    num_general=12)
