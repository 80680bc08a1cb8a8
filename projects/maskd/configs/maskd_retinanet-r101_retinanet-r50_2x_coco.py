"""RetinaNet-R101 teaches RetinaNet-R50; numbers: retinanet_r101-retinanet_r50_coco.py of the official code."""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
    'retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    custom_mask_warmup=7000,
    boxes_beta=0.,  # L1
    term_weights=dict(maskd=7., boxes=1.))

optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=24, by_epoch=True, milestones=[16, 22], gamma=0.1)
]
