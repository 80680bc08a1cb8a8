"""RTFormer-Slim on Toytown, from scratch; no number of it is from the paper but the optimiser's."""
_base_ = ['./rtformer-slim.py', '../../../configs/_base_/datasets/toytown_segmentation.py']

iters = 4000
model = dict(
    data_preprocessor=dict(size=(192, 320)), decode_head=dict(num_classes=9), auxiliary_head=dict(num_classes=9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0025, begin=0, end=200, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=1e-6, begin=200, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 4)
default_hooks = dict(checkpoint=dict(interval=iters // 4))
