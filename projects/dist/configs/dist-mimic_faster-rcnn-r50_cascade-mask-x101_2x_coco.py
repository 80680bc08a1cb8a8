"""The same, and the neck's levels are mimicked (dist+mimic_cascade_mask_rcnn_x101-fpn_x50_coco.py there)."""
_base_ = './dist_faster-rcnn-r50_cascade-mask-x101_2x_coco.py'

distill = dict(mimic=1.)
