"""SparsePoint on ScanNet: boxes along the axes, generalized IoU. No code was released; the numbers are ours."""
_base_ = [
    './_base_/sparsepoint.py', '../../../configs/_base_/datasets/scannet.py',
    '../../../configs/_base_/runtimes/det3d.py'
]

model = dict(bbox_head=dict(num_classes=18))
auto_scale_lr = dict(base_batch_size=8)
