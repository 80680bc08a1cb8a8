"""Ladder, step 5: look forward twice (47.0 AP); the baseline "+ tricks" of the paper's tables."""
_base_ = './deformable-detr-mixed_r50_12e_coco.py'

model = dict(look_forward_twice=True)  # --look_forward_twice
