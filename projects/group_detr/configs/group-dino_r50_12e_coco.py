"""Group DINO, 4 scales, 12 epochs (49.6 AP as trained by PaddleDetection).

Source: PaddleDetection at 666f597f, configs/group_detr/_base_/{group_dino_r50,optimizer_1x}.yml. What mmdet's DINO has
alike is inherited: 900 queries, 6 + 6 layers, 100 denoising queries, costs and losses, AdamW at 1e-4, divided
by 10 after epoch 11.
"""
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

model = dict(type='mmpapers.GroupDINO', num_query_groups=11)  # dual_groups: 10, besides the detector's own
auto_scale_lr = dict(base_batch_size=8)  # 4 GPUs, README of configs/group_detr, x 2
