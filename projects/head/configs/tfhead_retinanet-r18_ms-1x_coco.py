"""TF-HEAD: RetinaNet R18 with an R-CNN and an FCOS head on its neck, no teacher."""
_base_ = './head_retinanet-r18_ms-1x_coco.py'

distill = dict(
    _delete_=True,
    type='mmpapers.TFHEAD',
    ckd_stop_epoch=8,  # secondary source: from the first drop of the learning rate on
    assistants=[dict(type='mmpapers.RCNNAssistant'), dict(type='mmpapers.DenseAssistant')])
