"""Cascade Mask R-CNN X101 teaches Faster R-CNN R50; numbers: cascade_mask_rcnn_x101-fpn_x50_coco.py, official code."""
_base_ = './maskd_faster-rcnn-r101_faster-rcnn-r50_2x_coco.py'

model = dict(roi_head=dict(bbox_head=dict(reg_class_agnostic=True)))  # as the teacher's first stage
distill = dict(
    teacher='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/'
    'cascade_mask_rcnn_x101_64x4d_fpn_20e_coco/cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth',
    masks=dict(_delete_=True, optimizer=dict(type='Adam', lr=0.01, weight_decay=0.1)),
    custom_mask_warmup=5000)
