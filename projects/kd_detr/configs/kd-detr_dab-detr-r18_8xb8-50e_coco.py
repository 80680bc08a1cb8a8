"""KD-DETR as published: DAB-DETR R50 teaches DAB-DETR R18 on COCO; 8 GPUs with 8 images each."""
_base_ = 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py'

model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),  # released code, tools/train.sh
    neck=dict(in_channels=[512]))
train_dataloader = dict(batch_size=8)  # released code, tools/train.sh; epochs 50 and drop 40 are the base's
optim_wrapper = dict(optimizer=dict(lr=0.0002))  # the same; the backbone has a tenth of it
auto_scale_lr = dict(base_batch_size=64)

distill = dict(
    type='mmpapers.KDDETR',
    teacher='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v3.0/dab_detr/dab-detr_r50_8xb2-50e_coco/'
    'dab-detr_r50_8xb2-50e_coco_20221122_120837-c1035c8c.pth')
