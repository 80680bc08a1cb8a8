"""Generated rooms as SUN RGB-D views: 4096 points, all of SUN RGB-D's classes, of which eight occur.

Make the data with ``python -m mmpapers.datasets.rooms data/rooms --train 600 --val 100``. Toilet and bathtub do not
occur; the metric averages over the others. For SUN RGB-D, a child names ``sunrgbd.py``.
"""
_base_ = 'sunrgbd.py'
data_root = 'data/rooms/sunrgbd/'
num_points = 4096

_base_.train_pipeline[4].num_points = _base_.test_pipeline[1].num_points = num_points
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(times=1, dataset=dict(data_root=data_root, pipeline=_base_.train_pipeline)))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
