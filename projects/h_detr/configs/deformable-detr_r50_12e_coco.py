"""Two-stage Deformable DETR, 12 epochs, 8 GPUs x 2 images: the start of the ladder (paper: 43.3 AP).

The ladder is one file a step: this one, ffn2048, dp0, mixed, tricks, and h-deformable-detr. Numbers from the
released code (HDETR/H-Deformable-DETR) stand beside the line that they explain.
"""
_base_ = 'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'

max_epochs = 12  # --epochs 12 --lr_drop 11
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=16)  # README: 8 cards; main.py: --batch_size 2 with --lr 2e-4; mmdet has 32
