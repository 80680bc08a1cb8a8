"""TTFNet-53, 24 epochs on COCO (official configs/ttfnet/ttfnet_d53_2x.py)."""
_base_ = './ttfnet_d53_1x_coco.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, milestones=[18, 22], gamma=0.1)
]
train_cfg = dict(max_epochs=24, val_interval=8)
default_hooks = dict(checkpoint=dict(interval=8))
