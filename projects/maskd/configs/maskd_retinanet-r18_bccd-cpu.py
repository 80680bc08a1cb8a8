"""RetinaNet-R50 teaches RetinaNet-R18 on BCCD at 160x120, both stages in this run; the numbers are ours.

The official warm-up of customised masks, 7000 of 175,920 steps, is 17 of these 416. Masks are learned in 100 steps: 2
epochs, where 2000 steps of 16 images are 0.3 epochs of COCO. They depend on the teacher alone, so all runs share them.
"""
_base_ = '../../../configs/distill/bccd/retinanet_r18.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='../../../configs/distill/bccd/retinanet_r50.py',
    checkpoint='work_dirs/retinanet_r50/epoch_24.pth',
    masks=dict(iters=100, file='work_dirs/retinanet_r50/masks.pth'),
    custom_mask_warmup=17,
    boxes_beta=0.)
