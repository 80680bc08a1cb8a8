"""A quarter of RetinaNet-R18's width learns from an untrained RetinaNet-R18 under random masks; for tests."""
_base_ = './_base_/retinanet_tiny.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='../../../configs/distill/bccd/retinanet_r18.py',
    checkpoint='random',
    masks='random',
    custom_mask_warmup=1)
