"""RTFormer-Slim on Cityscapes, 120k iterations, four GPUs of three images.

Numbers: configs/rtformer/rtformer_slim_cityscapes_1024x512_120k.yml of PaddleSeg. It starts from weights trained on
ImageNet; convert them with tools/model_converters/rtformer.py --partial and pass them as ``load_from``.
"""
_base_ = ['./rtformer-slim.py', '../../../configs/_base_/datasets/cityscapes.py']

iters = 120000
crop_size = (512, 1024)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=step / 4, keep_ratio=True)] for step in range(2, 9)]),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    # The released code multiplies the brightness by 0.6 to 1.4; mmseg adds -32 to 32.
    dict(type='PhotoMetricDistortion', contrast_range=(0.6, 1.4), saturation_range=(0.6, 1.4)),
    dict(type='PackSegInputs')
]
train_dataloader = dict(batch_size=3, dataset=dict(pipeline=train_pipeline))
model = dict(data_preprocessor=dict(size=crop_size))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.0025, begin=0, end=1500, by_epoch=False),  # from 1e-6
    dict(type='PolyLR', power=1.0, eta_min=1e-6, begin=1500, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 15)
default_hooks = dict(checkpoint=dict(interval=iters // 15, save_best='mIoU'))
auto_scale_lr = dict(enable=False, base_batch_size=12)
