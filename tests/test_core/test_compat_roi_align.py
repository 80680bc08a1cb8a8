"""RoIAlign(use_torchvision=True) without torchvision."""

from importlib import util

import pytest
import torch
from mmcv.ops import RoIAlign

from mmpapers.compat import roi_align

pytestmark = pytest.mark.core


def test_layer_that_asks_for_torchvision_pools_as_mmcvs_own() -> None:
    roi_align.install()
    first = RoIAlign.forward
    roi_align.install()
    assert RoIAlign.forward is first
    x, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 1.0, 2.0, 20.0, 30.0]])
    settings = {'output_size': 3, 'spatial_scale': 0.25, 'sampling_ratio': 2}
    torch.testing.assert_close(RoIAlign(**settings, use_torchvision=True)(x, rois), RoIAlign(**settings)(x, rois))


def test_torchvision_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoIAlign, 'forward', getattr(RoIAlign.forward, '__wrapped__', RoIAlign.forward))
    original = RoIAlign.forward
    monkeypatch.setattr(util, 'find_spec', lambda name: name)
    roi_align.install()
    assert RoIAlign.forward is original
