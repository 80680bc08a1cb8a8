"""H-Deformable-DETR, Swin-T, 36 epochs (53.2 AP; 53.7 with optim_wrapper.optimizer.weight_decay=0.05)."""
_base_ = './h-deformable-detr_swin-t_12e_coco.py'

max_epochs = 36  # --epochs 36 --lr_drop 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[30], gamma=0.1)]
