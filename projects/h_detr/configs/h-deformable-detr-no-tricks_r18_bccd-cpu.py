"""BCCD on a CPU core, hybrid: the one-to-many branch without tricks; ours."""
_base_ = ['./deformable-detr-two-stage_r18_bccd-cpu.py']

model = dict(
    num_one2many=250,  # K times the objects of all but the fullest images, which have about 30
    bbox_head=dict(type='mmpapers.HybridDeformableDETRHead', k_one2many=5))
