"""Stage 2 with a ViT of four blocks, and few queries; for tests. DINO's width is fixed in mmdet."""
_base_ = './group-dino_vit-h_coco.py'

load_from = None
model = dict(
    num_queries=8,
    num_query_groups=2,
    backbone=dict(img_size=64, embed_dims=32, depth=4, num_heads=2, window_size=2, global_blocks=(1, 3)),
    neck=dict(in_channels=32),
    encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    decoder=dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=6)),
    test_cfg=dict(max_per_img=8))
