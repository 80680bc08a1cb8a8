"""BCCD on a CPU core, tricks: mixed selection and look forward twice; ours."""
_base_ = ['./deformable-detr-two-stage_r18_bccd-cpu.py']

model = dict(mixed_selection=True, look_forward_twice=True)
