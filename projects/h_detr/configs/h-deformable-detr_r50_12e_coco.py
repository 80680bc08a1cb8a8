"""H-Deformable-DETR with the tricks, the last step of the ladder (48.7 AP)."""
_base_ = './deformable-detr-tricks_r50_12e_coco.py'

model = dict(
    num_one2many=1500,  # --num_queries_one2many 1500 beside --num_queries_one2one 300
    # --k_one2many 6 --lambda_one2many 1.0
    bbox_head=dict(type='mmpapers.HybridDeformableDETRHead', k_one2many=6, weight_one2many=1.0))
