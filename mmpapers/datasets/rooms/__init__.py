"""Rooms: procedural furnished rooms, written as ScanNet scenes and as SUN RGB-D views for mmdet3d.

:mod:`.furniture` (things), :mod:`.room` (what stands where), :mod:`.capture` (point clouds and pictures),
:mod:`.writers` (formats), :mod:`.plan` (a folder of them all). Command line:
``python -m mmpapers.datasets.rooms OUT --train 600 --val 100``.
"""

VERSION = 1  # grows whenever the same parameters give other points or boxes
