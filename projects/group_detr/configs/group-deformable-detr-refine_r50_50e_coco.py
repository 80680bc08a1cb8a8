"""Group Deformable DETR with box refinement; ours. Groups as in the paper's main setting, all else mmdet's."""
_base_ = 'mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py'

model = dict(type='mmpapers.GroupDeformableDETR', num_query_groups=11)
