"""HEAD as published: Faster R-CNN R50 teaches RetinaNet MobileNetV2 on COCO."""
_base_ = './head_retinanet-r18_ms-1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),  # official code, mnv2_fpn
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmdetection/v2.0/third_party/'
            'mobilenet_v2_batch256_imagenet-ff34753d.pth')),
    neck=dict(in_channels=[24, 32, 96, 1280]))
