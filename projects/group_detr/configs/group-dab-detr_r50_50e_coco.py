"""Group DAB-DETR. Groups as in group-conditional-detr_r50_50e_coco.py, all else as mmdet has it."""
_base_ = 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py'

model = dict(type='mmpapers.GroupDABDETR', num_query_groups=11)
