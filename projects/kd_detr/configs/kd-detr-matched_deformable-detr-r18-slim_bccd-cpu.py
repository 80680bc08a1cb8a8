"""The ablation baseline: own queries of both, paired by Hungarian matching, no shared points."""
_base_ = ['./kd-detr_deformable-detr-r18-slim_bccd-cpu.py']

distill = dict(points='matched')
