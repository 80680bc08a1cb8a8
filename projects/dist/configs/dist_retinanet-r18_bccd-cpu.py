"""RetinaNet-R18 on BCCD at 160x120, RetinaNet-R50 teaches its class scores; one CPU core."""
_base_ = '../../../configs/distill/bccd/retinanet_r18.py'

distill = dict(
    type='mmpapers.DIST',
    teacher='../../../configs/distill/bccd/retinanet_r50.py',
    checkpoint='work_dirs/retinanet_r50/epoch_24.pth')
