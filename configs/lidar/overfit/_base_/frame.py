"""What the overfitted frames share: the runtime and a short one-cycle schedule; the numbers are ours.

Training and testing see the same points: a network that cannot bring back the boxes it was trained on has a broken part
somewhere between the files and the metric. All norms have momentum 0.1: with mmdet3d's 0.01, running statistics lag
100 steps behind the weights.
"""
_base_ = ['../../../_base_/runtimes/det3d.py']

steps = 300
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.005, weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [dict(type='OneCycleLR', eta_max=0.005, total_steps=steps, pct_start=0.3, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps, val_interval=steps)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
log_processor = dict(by_epoch=False, window_size=10)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=steps, max_keep_ckpts=1))
