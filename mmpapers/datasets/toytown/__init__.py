"""Toytown: a procedural street that writes COCO, Cityscapes-style, TuSimple and depth files.

Rooms: :mod:`.scene` (what is where), :mod:`.geometry` (rays and primitives), :mod:`.annotate` (exact labels),
:mod:`.render` (pictures), :mod:`.writers` (formats), :mod:`.generate` (a folder of them all). Command line:
``python -m mmpapers.datasets.toytown OUT --train 400 --val 100``.
"""

VERSION = 1  # grows whenever the same parameters give other labels or pictures
