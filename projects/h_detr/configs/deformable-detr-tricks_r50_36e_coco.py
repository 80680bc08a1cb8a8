"""Deformable DETR with the tricks, 36 epochs (49.0 AP)."""
_base_ = './deformable-detr-tricks_r50_12e_coco.py'

max_epochs = 36  # --epochs 36 --lr_drop 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[30], gamma=0.1)]
