"""RTFormer-Slim on CamVid at 480x360, from scratch, one GPU of eight images.

The paper trains on CamVid but no config of it was released: optimiser and losses are those of Cityscapes, the length is
ours.
"""
_base_ = ['./rtformer-slim.py', '../../../configs/_base_/datasets/camvid.py']

iters = 20000
model = dict(
    data_preprocessor=dict(size=(360, 480)), decode_head=dict(num_classes=11), auxiliary_head=dict(num_classes=11))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0025, begin=0, end=iters // 20, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=1e-6, begin=iters // 20, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 10)
default_hooks = dict(checkpoint=dict(interval=iters // 10))
auto_scale_lr = dict(enable=False, base_batch_size=8)
