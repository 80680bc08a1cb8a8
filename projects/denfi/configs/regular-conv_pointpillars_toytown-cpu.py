"""Control for DENFI: the same parameters, losses and schedule, but the 3x3 convolution samples its regular grid."""
_base_ = './denfi_pointpillars_toytown-cpu.py'

model = dict(aux_neck=dict(guided=False))
