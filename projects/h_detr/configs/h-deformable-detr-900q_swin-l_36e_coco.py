"""H-Deformable-DETR, Swin-L, 900 queries, weight decay 0.05, 36 epochs (57.8 AP; 57.9 with the best 300)."""
_base_ = './h-deformable-detr_swin-l_36e_coco.py'

model = dict(
    num_queries=900,  # --num_queries_one2one 900
    test_cfg=dict(max_per_img=300))  # --topk 300
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))  # --weight_decay 0.05
