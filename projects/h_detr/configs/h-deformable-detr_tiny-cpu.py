"""H-Deformable-DETR small enough for a training step of a fraction of a second on a CPU; for tests and first looks."""
_base_ = ['./h-deformable-detr_r18_bccd-cpu.py']

attention = dict(embed_dims=32, num_heads=4)
deformable = dict(embed_dims=32, num_heads=4, num_points=2)
ffn = dict(embed_dims=32, feedforward_channels=64)
model = dict(
    num_queries=10,
    num_one2many=30,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[16, 32, 64], out_channels=32, norm_cfg=dict(num_groups=4)),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=deformable, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=16),
    bbox_head=dict(embed_dims=32, k_one2many=3),
    test_cfg=dict(max_per_img=20))
