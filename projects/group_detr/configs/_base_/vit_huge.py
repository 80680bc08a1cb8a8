"""Group DINO with ViT-Huge at up to 2000 x 1184 pixels, 12 epochs: what the stages of Group DETR v2 have in common.

Source of every number, unless noted: PaddleDetection at 666f597f, configs/group_detr/_base_/group_dino_vit_huge.yml,
dino_2000_reader.yml and optimizer_1x.yml, which reproduces Group DETR v2 (arXiv 2211.03594, Chen et al., 2022). What
mmdet's DINO has alike is inherited: 900 queries, 6 + 6 layers, 100 denoising queries, costs and losses.
"""
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

model = dict(
    type='mmpapers.GroupDINO',
    num_query_groups=11,  # dual_groups: 10, besides the detector's own
    backbone=dict(
        _delete_=True,
        type='mmpapers.WindowViT',
        img_size=1024,  # ppdet/modeling/backbones/vit_mae.py; relative positions are interpolated to larger images
        patch_size=16,
        embed_dims=1280,
        depth=32,
        num_heads=16,
        mlp_ratio=4.,
        qkv_bias=True,
        window_size=14,
        global_blocks=(7, 15, 23, 31),
        use_abs_pos=False,  # as released; ViTDet adds them: use_abs_pos=True, pretrain_img_size=256 (16 x 16 positions)
        use_rel_pos=True,
        drop_path_rate=0.1,
        with_cp=True,  # ours; the same values in less memory
        # Stage 0: ViT-H/14 trained as a masked autoencoder, then on the labels of ImageNet-1K, by the authors of MAE
        # (facebookresearch/mae, FINETUNE.md). PaddleDetection starts from the autoencoder's own weights instead:
        # https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth. Patch filters become 16 x 16.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/mae/finetune/mae_finetuned_vit_huge.pth')),
    neck=dict(  # strides 8, 16, 32, 64; its maps enter the encoder as they are, use_input_proj: False
        _delete_=True,
        type='mmpapers.SimpleFeaturePyramid',
        in_channels=1280,
        out_channels=256,
        scale_factors=(2., 1., 0.5),
        num_outs=4))

resize = dict(type='RandomChoiceResize', scales=[(side, 2000) for side in range(480, 1185, 32)], keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[[resize],
                    [
                        dict(  # the long side is not limited there
                            type='RandomChoiceResize',
                            scales=[(side, 4200) for side in range(400, 901, 100)],
                            keep_ratio=True),
                        dict(
                            type='RandomCrop',
                            crop_type='absolute_range',
                            crop_size=(384, 900),
                            allow_negative_crop=True), resize
                    ]]),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(2000, 1184), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# AdamW at 1e-4 with decay 1e-4, clipped at 0.1, divided by 10 after epoch 11: as inherited.
optim_wrapper = dict(
    constructor='mmpapers.LayerDecayConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7))  # lr_decay_rate
auto_scale_lr = dict(base_batch_size=8)  # 4 GPUs, README of configs/group_detr, x 2
