"""A small Group Deformable DETR (one-stage, with box refinement) on blood cells, 11 groups of 50 queries; ours."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

model = dict(type='mmpapers.GroupDeformableDETR', num_query_groups=11)
