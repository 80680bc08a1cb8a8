"""Group Conditional DETR, 50 epochs of COCO at batch 16.

Source: detrex at e244e6c3, projects/group_detr/configs/group_detr_r50_50ep.py and models/group_detr_r50.py. What
mmdet's Conditional DETR has alike is inherited: 300 queries, 6 + 6 layers, dropout 0.1, costs and losses 2/5/2, AdamW
at 1e-4 (backbone 1e-5) with decay 1e-4, clipped at 0.1, divided by 10 after epoch 40.
"""
_base_ = 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'

model = dict(type='mmpapers.GroupConditionalDETR', num_query_groups=11)  # group_nums
