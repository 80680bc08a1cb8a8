"""Distillation for any model of mmdet, mmseg and mmdet3d; start with :class:`~mmpapers.distill.distiller.Distiller`."""

from mmpapers.distill.distiller import Distiller, Seen
from mmpapers.distill.errors import DistillError
from mmpapers.distill.schedule import Weight
from mmpapers.distill.taps import TapError
from mmpapers.distill.teacher import Teacher

__all__ = ['DistillError', 'Distiller', 'Seen', 'TapError', 'Teacher', 'Weight']
