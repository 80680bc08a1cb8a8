"""BCCD on a CPU core, tricks and hybrid; ours."""
_base_ = ['./deformable-detr-tricks_r18_bccd-cpu.py']

model = dict(
    num_one2many=250,  # K times the objects of all but the fullest images, which have about 30
    bbox_head=dict(type='mmpapers.HybridDeformableDETRHead', k_one2many=5))
