"""RetinaNet R18 with an assistant and no teacher: the released code's `assist`."""
_base_ = './head_retinanet-r18_ms-1x_coco.py'

distill = dict(_delete_=True, type='mmpapers.HEAD', akd=False, ckd=False)
