"""The first stage by itself, masks of an untrained tiny RetinaNet; for tests. A checkpoint holds the masks only."""
_base_ = './_base_/retinanet_tiny.py'

model = dict(_delete_=True, type='mmpapers.MaskLearner', teacher=_base_.model, checkpoint='random')

# Official code: 2000 steps of 16 images for COCO, Adam, cosine to 1e-6.
iters = 20
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=0.01, weight_decay=0.001))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=iters, T_max=iters, eta_min=1e-6)]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters))
log_processor = dict(by_epoch=False)
