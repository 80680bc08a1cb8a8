"""KD-DETR for DINO, R50 to R18 on COCO, 8 GPUs with 2 images each: our extension."""
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]))

distill = dict(
    type='mmpapers.KDDETR',
    teacher='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v3.0/dino/dino-4scale_r50_8xb2-12e_coco/'
    'dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth')
