"""Ladder, step 4: mixed selection (paper: 46.3 AP)."""
_base_ = './deformable-detr-dp0_r50_12e_coco.py'

model = dict(type='mmpapers.HybridDeformableDETR', num_one2many=0, mixed_selection=True)  # --mixed_selection
