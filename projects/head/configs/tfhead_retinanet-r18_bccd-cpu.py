"""TF-HEAD on BCCD at 160x120 for one CPU core: a slim RetinaNet R18 with an R-CNN and an FCOS head beside its own."""
_base_ = ['./assist_retinanet-r18_bccd-cpu.py']

distill = dict(
    _delete_=True,
    type='mmpapers.TFHEAD',
    proposals=dict(nms_pre=500, max_per_img=250),
    term_weights=dict(ckd=dict(value=0.1, warmup=35, end_epoch=5)),  # weight and warm-up of HEAD on this data
    assistants=[
        dict(type='mmpapers.RCNNAssistant', rcnn=_base_.rcnn, bbox_head=_base_.bbox_head),
        dict(
            type='mmpapers.DenseAssistant',
            bbox_head=dict(
                type='FCOSHead', stacked_convs=2, center_sampling=True, norm_on_bbox=True, centerness_on_reg=True))
    ])
