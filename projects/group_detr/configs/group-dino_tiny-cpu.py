"""Group DINO, 1 + 2 layers, for tests and first looks; mmdet's DINO runs with 256 channels only."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

deformable = dict(embed_dims=256, num_heads=8, num_points=2)
ffn = dict(embed_dims=256, feedforward_channels=64)
model = dict(
    type='mmpapers.GroupDINO',
    num_queries=10,
    num_query_groups=3,
    as_two_stage=True,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[16, 32, 64], out_channels=256),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=256), cross_attn_cfg=deformable, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=128, offset=0.0, temperature=20),
    bbox_head=dict(type='DINOHead', embed_dims=256, loss_cls=dict(loss_weight=1.0)),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=6)),
    test_cfg=dict(max_per_img=20))
train_dataloader = dict(batch_size=2)
