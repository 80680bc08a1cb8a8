"""HEAD without CKD: the released code's `head_dag`."""
_base_ = './head_retinanet-r18_ms-1x_coco.py'

distill = dict(ckd=False)
