"""RetinaNet-R18 on BCCD at 160x120, RetinaNet-R50 teaches its neck levels by Pearson correlation."""
_base_ = './retinanet_r18.py'

distill = dict(
    type='mmpapers.PKD', teacher='./retinanet_r50.py', checkpoint='work_dirs/retinanet_r50/epoch_24.pth')
