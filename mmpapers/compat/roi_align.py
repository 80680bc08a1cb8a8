"""RoIAlign layers that ask for torchvision, where torchvision is not installed.

Why: mmcv 2.1.0's ``RoIAlign(use_torchvision=True)``, in CrowdDet's configs for one, imports torchvision in its forward
pass. mmcv's own op has the same values, and the tested stack does without torchvision.
Upstream: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/roi_align.py
May go when torchvision joins the stack.
"""

import functools
import importlib
from importlib import util

from torch import Tensor, nn


def install() -> None:
    """Let ``RoIAlign`` use mmcv's op where torchvision is absent; a second call does nothing."""
    layer = importlib.import_module('mmcv.ops.roi_align').RoIAlign
    if hasattr(layer.forward, '__wrapped__') or util.find_spec('torchvision'):
        return
    original = layer.forward

    @functools.wraps(original)
    def forward(self: nn.Module, input: Tensor, rois: Tensor) -> Tensor:
        self.use_torchvision = False
        return original(self, input, rois)

    layer.forward = forward
