"""SparsePoint on SUN RGB-D: turned boxes, plain IoU of them. No code was released; the numbers are ours."""
_base_ = [
    './_base_/sparsepoint.py', '../../../configs/_base_/datasets/sunrgbd.py',
    '../../../configs/_base_/runtimes/det3d.py'
]

_base_.model.bbox_head.criterion.assigner.costs[2].giou = False
model = dict(bbox_head=dict(num_classes=10, num_dir_bins=12, criterion=dict(
    assigner=dict(costs=_base_.model.bbox_head.criterion.assigner.costs), giou=False)))
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=8)
