"""DINO with hybrid matching, ours: the paper trains none. T, K and lambda are those of Deformable DETR."""
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

model = dict(
    type='mmpapers.HybridDINO',
    num_one2many=1500,
    bbox_head=dict(type='mmpapers.HybridDINOHead', k_one2many=6, weight_one2many=1.0))
