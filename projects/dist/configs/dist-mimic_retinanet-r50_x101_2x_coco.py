"""The same, and the neck's levels are mimicked (dist+mimic_retinanet_x101-retinanet-r50_coco.py there)."""
_base_ = './dist_retinanet-r50_x101_2x_coco.py'

distill = dict(mimic=1.)
