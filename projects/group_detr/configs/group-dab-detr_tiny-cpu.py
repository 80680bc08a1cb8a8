"""Group DAB-DETR small enough for a training step of a fraction of a second on a CPU; for tests and first looks."""
_base_ = ['./group-dab-detr_r18_bccd-cpu.py']

attention = dict(embed_dims=32, num_heads=4)
ffn = dict(embed_dims=32, feedforward_channels=64)
model = dict(
    num_queries=10,
    num_query_groups=3,
    # no stage 4, which nothing would use
    backbone=dict(base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1)),
    neck=dict(in_channels=[32], out_channels=32),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=16),
    bbox_head=dict(embed_dims=32),
    test_cfg=dict(max_per_img=20))
train_dataloader = dict(batch_size=2)
