"""Group DETR v2, stage 2: the detector of stage 1 is trained on COCO; sources as in the base.

What depends on the classes (the class layers, the labels' embeddings) starts anew; the loader lists it.
"""
_base_ = './_base_/vit_huge.py'

model = dict(backbone=dict(init_cfg=None))  # the encoder comes with the detector
load_from = 'work_dirs/group-dino_vit-h_objects365/epoch_12.pth'
