"""RetinaNet-R50, RetinaNet-X101 teaches its class scores (8 GPUs x 2).

Source: mmrazor/configs/distill/dist/dist_retinanet_x101-retinanet-r50_coco.py of github.com/hunto/MasKD at b5af34f.
"""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'

distill = dict(
    type='mmpapers.DIST',
    teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/'
    'retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth')
