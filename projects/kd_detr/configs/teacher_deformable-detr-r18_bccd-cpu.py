"""The teacher on BCCD at 160x120: the small Deformable DETR of this repository, trained three times as long."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

epochs = 36
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=epochs, milestones=[30], gamma=0.1)
]
train_cfg = dict(max_epochs=epochs)
