"""H-Deformable-DETR with the tricks, Swin-T (50.6 AP; 51.2 with optim_wrapper.optimizer.weight_decay=0.05)."""
_base_ = './h-deformable-detr_r50_12e_coco.py'

weights = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.2,  # main.py: --drop_path_rate, default
        out_indices=(1, 2, 3),
        with_cp=True,  # models/backbone.py: use_checkpoint=True
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=weights)),
    neck=dict(in_channels=[192, 384, 768]))
