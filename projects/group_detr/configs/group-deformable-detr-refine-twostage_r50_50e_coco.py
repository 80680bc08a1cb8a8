"""Two-stage Group Deformable DETR; ours. Every group has encoder heads, and so proposals, of its own."""
_base_ = 'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'

model = dict(type='mmpapers.GroupDeformableDETR', num_query_groups=11)
