"""General (random) points only."""
_base_ = ['./kd-detr_deformable-detr-r18-slim_bccd-cpu.py']

distill = dict(points='general')
