"""Generated rooms as ScanNet scenes: 4096 points, all of ScanNet's classes, of which eight occur.

Make the data with ``python -m mmpapers.datasets.rooms data/rooms --train 600 --val 100``. Cabinet, bed, chair, sofa,
table, bookshelf, desk and garbagebin occur; the metric averages over these. For ScanNet, a child names ``scannet.py``.
"""
_base_ = 'scannet.py'
data_root = 'data/rooms/scannet/'
num_points = 4096

_base_.train_pipeline[4].num_points = _base_.test_pipeline[2].num_points = num_points
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(times=1, dataset=dict(data_root=data_root, pipeline=_base_.train_pipeline)))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
