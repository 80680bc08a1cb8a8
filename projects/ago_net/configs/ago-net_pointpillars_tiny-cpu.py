"""AGO-Net small enough for a training step of a fraction of a second on a CPU; the twin is not trained."""
_base_ = './conceptual_pointpillars_tiny-cpu.py'

distill = dict(type='mmpapers.AGONet', teacher=_base_.model, checkpoint='random')
