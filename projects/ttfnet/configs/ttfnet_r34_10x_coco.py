"""TTFNet-34 (official configs/ttfnet/ttfnet_r34_aug_10x.py)."""
_base_ = './ttfnet_r18_10x_coco.py'

model = dict(
    backbone=dict(depth=34, init_cfg=dict(checkpoint='torchvision://resnet34')),
    bbox_head=dict(wh_convs=2))
