"""DeepLabV3-R18, DeepLabV3-R101 teaches its logits and those of its auxiliary head.

Source: segmentation/train_kd.py and train_scripts/train_kd/deeplabv3_res18.sh of github.com/hunto/DIST_KD at 2418f18.
"""
_base_ = 'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'

distill = dict(
    type='mmpapers.DIST',
    teacher='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3/deeplabv3_r101-d8_512x1024_80k_cityscapes/'
    'deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899.pth')

# 16 images a step [segmentation/train_kd.py]: 8 GPUs x 2
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
