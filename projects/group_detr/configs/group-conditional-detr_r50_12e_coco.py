"""Group Conditional DETR, 12 epochs (37.6 AP in the paper, as quoted in detrex#218)."""
_base_ = './group-conditional-detr_r50_50e_coco.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
# detrex, configs/common/coco_schedule.py: lr_multiplier_12ep drops after epoch 11
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1)]
