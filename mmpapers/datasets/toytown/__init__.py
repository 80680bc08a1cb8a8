"""Toytown: a procedural street that writes COCO, Cityscapes-style, TuSimple, depth and KITTI files.

Rooms: :mod:`.scene` (what is where), :mod:`.geometry` (rays and primitives), :mod:`.annotate` (exact labels),
:mod:`.render` (pictures), :mod:`.lidar` (point clouds), :mod:`.writers` and :mod:`.kitti` (formats), :mod:`.generate`
and :mod:`.kitti_plan` (a folder of them all). Command line: ``python -m mmpapers.datasets.toytown OUT --train 400
--val 100``; with ``--lidar`` a KITTI folder.
"""

VERSION = 1  # grows whenever the same parameters give other labels or pictures


class ToytownError(RuntimeError):
    """What was asked for cannot be done; the message says why and what to do."""
