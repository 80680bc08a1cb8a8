"""A small Group DAB-DETR on blood cells, 11 groups of 50 queries, one CPU core; ours."""
_base_ = ['../../../configs/detr/dab-detr_r18_bccd-cpu.py']

model = dict(type='mmpapers.GroupDABDETR', num_query_groups=11)
