"""Faster R-CNN R50, the first stage of Cascade Mask R-CNN X101 teaches its class scores (8 GPUs x 2).

Source: mmrazor/configs/distill/dist/dist_cascade_mask_rcnn_x101-fpn_x50_coco.py of github.com/hunto/MasKD at b5af34f.
"""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'

distill = dict(
    type='mmpapers.DIST',
    teacher='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_x101_64x4d_fpn_20e_coco/'
    'cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth')
