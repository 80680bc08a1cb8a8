"""Runtime of 3D detection configs: mmdet3d's scope, pictures and visualizer; all else as for images."""
_base_ = './det.py'

default_scope = 'mmdet3d'
default_hooks = dict(visualization=dict(type='Det3DVisualizationHook'))
visualizer = dict(type='Det3DLocalVisualizer')
