"""RetinaNet-R18 on BCCD at 160x120, RetinaNet-R50 teaches where the channels of its neck are active."""
_base_ = './retinanet_r18.py'

distill = dict(
    type='mmpapers.CWD', teacher='./retinanet_r50.py', checkpoint='work_dirs/retinanet_r50/epoch_24.pth')
