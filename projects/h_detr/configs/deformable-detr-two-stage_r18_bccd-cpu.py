"""BCCD on a CPU core, none: two-stage Deformable DETR without tricks; dropout is 0 in all of this size; ours."""
_base_ = ['../../../configs/detr/deformable-detr_r18_bccd-cpu.py']

# our class without its branch, because mmdet's runs two stages with 256 channels only
model = dict(type='mmpapers.HybridDeformableDETR', as_two_stage=True, num_one2many=0)
