"""KD-DETR for Deformable DETR with box refinement, R50 to R18, 16 GPUs with 2 images each: our extension."""
_base_ = 'mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py'

model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]))

distill = dict(
    type='mmpapers.KDDETR',
    teacher='mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v3.0/deformable_detr/'
    'deformable-detr-refine_r50_16xb2-50e_coco/deformable-detr-refine_r50_16xb2-50e_coco_20221022_225303-844e0f93.pth')
