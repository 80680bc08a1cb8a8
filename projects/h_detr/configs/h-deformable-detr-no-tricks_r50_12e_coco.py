"""Hybrid matching alone, on step 2 of the ladder (paper: 45.9 AP, against 43.7)."""
_base_ = './deformable-detr-ffn2048_r50_12e_coco.py'

model = dict(
    type='mmpapers.HybridDeformableDETR',
    num_one2many=1500,  # as in h-deformable-detr_r50_12e_coco.py
    bbox_head=dict(type='mmpapers.HybridDeformableDETRHead', k_one2many=6, weight_one2many=1.0))
