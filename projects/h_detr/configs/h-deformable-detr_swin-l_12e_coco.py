"""H-Deformable-DETR with the tricks, Swin-L (55.9 AP; 56.1 with model.num_queries=900)."""
_base_ = './h-deformable-detr_r50_12e_coco.py'

weights = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=7,
        drop_path_rate=0.2,  # main.py: --drop_path_rate, default
        out_indices=(1, 2, 3),
        with_cp=True,  # models/backbone.py: use_checkpoint=True
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=weights)),
    neck=dict(in_channels=[384, 768, 1536]))
