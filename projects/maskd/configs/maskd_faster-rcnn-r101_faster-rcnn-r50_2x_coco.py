"""Faster R-CNN R101 teaches Faster R-CNN R50; numbers: fpn_r101-fpn_r50_coco.py of the official code."""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/'
    'faster_rcnn_r101_fpn_2x_coco/faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    masks=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)),  # as released for this teacher
    custom_mask_warmup=7330,
    term_weights=dict(maskd=1., boxes=1.))
