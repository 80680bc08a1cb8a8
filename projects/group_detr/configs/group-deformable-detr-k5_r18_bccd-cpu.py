"""The same with 5 groups."""
_base_ = ['./group-deformable-detr_r18_bccd-cpu.py']

model = dict(num_query_groups=5)
