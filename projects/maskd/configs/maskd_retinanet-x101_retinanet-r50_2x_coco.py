"""RetinaNet-X101 teaches RetinaNet-R50, which starts with the teacher's neck and head.

Numbers: retinanet_x101-retinanet_r50_coco.py of the official code.
"""
_base_ = './maskd_retinanet-r101_retinanet-r50_2x_coco.py'

weights = ('https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_mstrain_3x_coco/'
           'retinanet_x101_64x4d_fpn_mstrain_3x_coco_20210719_051838-022c2187.pth')
distill = dict(
    teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py',
    checkpoint=weights,
    custom_mask_warmup=8500,
    boxes_beta=1.)
model = dict(
    neck=dict(init_cfg=dict(type='Pretrained', prefix='neck', checkpoint=weights)),
    bbox_head=dict(init_cfg=dict(_delete_=True, type='Pretrained', prefix='bbox_head', checkpoint=weights)))
