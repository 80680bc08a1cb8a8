"""H-Deformable-DETR, Swin-L, 36 epochs (57.1 AP)."""
_base_ = './h-deformable-detr_swin-l_12e_coco.py'

max_epochs = 36  # --epochs 36 --lr_drop 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[30], gamma=0.1)]
model = dict(backbone=dict(drop_path_rate=0.5))  # --drop_path_rate 0.5
