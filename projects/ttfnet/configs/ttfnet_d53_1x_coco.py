"""TTFNet-53 (official configs/ttfnet/ttfnet_d53_1x.py)."""
_base_ = './ttfnet_r18_1x_coco.py'

model = dict(
    # The official backbone's server is reported dead. mmdet's weights were trained on pixels scaled to 0..1; official
    # detectors, once converted, want the mean and std of ttfnet_r18_1x_coco.py.
    data_preprocessor=dict(mean=[0., 0., 0.], std=[255., 255., 255.]),
    backbone=dict(
        _delete_=True,
        type='Darknet',
        depth=53,
        out_indices=(2, 3, 4, 5),
        frozen_stages=2,  # stem and first stage, which the official DarknetV3 calls frozen_stages=1
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://darknet53')),
    neck=dict(in_channels=(128, 256, 512, 1024)),
    bbox_head=dict(wh_convs=2))
train_dataloader = dict(batch_size=12)
optim_wrapper = dict(optimizer=dict(lr=0.015))
auto_scale_lr = dict(base_batch_size=96)  # 8 GPUs x 12
