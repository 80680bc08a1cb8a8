"""RTFormer-Slim on ADE20K, 160k iterations, four GPUs of four images.

Numbers: configs/rtformer/rtformer_slim_ade20k_512x512_160k.yml of PaddleSeg. It starts from weights trained on
ImageNet; convert them with tools/model_converters/rtformer.py --partial and pass them as ``load_from``.
"""
_base_ = ['./rtformer-slim.py', '../../../configs/_base_/datasets/ade20k.py']

iters = 160000
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=step / 4, keep_ratio=True)] for step in range(2, 9)]),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    # The released code multiplies the brightness by 0.6 to 1.4; mmseg adds -32 to 32.
    dict(type='PhotoMetricDistortion', contrast_range=(0.6, 1.4), saturation_range=(0.6, 1.4)),
    dict(type='PackSegInputs')
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(use_injection=(True, False), cross_size=8, drop_path_rate=0.1),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=1500, by_epoch=False),  # from 1e-6
    dict(type='PolyLR', power=1.0, eta_min=1e-7, begin=1500, end=iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 10)
default_hooks = dict(checkpoint=dict(interval=iters // 10, save_best='mIoU'))
auto_scale_lr = dict(enable=False, base_batch_size=16)
