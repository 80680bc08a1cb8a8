"""A small Group Conditional DETR on blood cells, 11 groups of 50 queries, one CPU core; ours."""
_base_ = ['../../../configs/detr/conditional-detr_r18_bccd-cpu.py']

model = dict(type='mmpapers.GroupConditionalDETR', num_query_groups=11)
