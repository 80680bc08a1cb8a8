"""The shim for mmcv's wrappers that speak of CUDA."""

import subprocess
import sys
import types

import pytest
import torch
from mmcv import ops
from mmcv.ops import furthest_point_sample as sampling_function
from mmcv.ops import points_in_boxes_all, points_in_boxes_part

from mmpapers.compat import SHIMS, points

pytestmark = pytest.mark.core

knn_module, boxes_module, sampling = (sys.modules[f'mmcv.ops.{name}'] for name in
                                      ('knn', 'points_in_boxes', 'furthest_point_sample'))


def test_a_second_call_changes_nothing() -> None:
    before = sampling.FurthestPointSampling.forward, knn_module.torch, boxes_module.torch
    points.install()
    assert (sampling.FurthestPointSampling.forward, knn_module.torch, boxes_module.torch) == before


def test_names_that_were_imported_before_are_mended_too() -> None:
    cloud = torch.randn(2, 30, 3)
    assert sampling_function(cloud, 4).device.type == 'cpu'
    assert sampling_function(cloud.transpose(0, 1).contiguous().transpose(0, 1), 4).shape == (2, 4)
    assert ops.knn(3, cloud).shape == (2, 3, 30)


def test_points_in_boxes_call_the_boundary_with_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}

    def record(name: str) -> callable:
        def op(boxes: torch.Tensor, cloud: torch.Tensor, out: torch.Tensor) -> None:
            calls[name] = (boxes.shape, cloud.shape, out.shape, out.dtype)
        return op

    names = ('points_in_boxes_part_forward', 'points_in_boxes_all_forward')
    monkeypatch.setattr(boxes_module, 'ext_module', types.SimpleNamespace(**{name: record(name) for name in names}))
    assert points_in_boxes_part(torch.randn(2, 9, 3), torch.randn(2, 4, 7)).eq(-1).all()
    assert points_in_boxes_all(torch.randn(2, 9, 3), torch.randn(2, 4, 7)).eq(0).all()
    assert calls == {names[0]: ((2, 4, 7), (2, 9, 3), (2, 9), torch.int32),
                     names[1]: ((2, 4, 7), (2, 9, 3), (2, 9, 4), torch.int32)}


def test_cuda_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'set_device', seen.append)
    assert knn_module.torch.cuda.current_device() == 3
    knn_module.torch.cuda.set_device(1)
    assert seen == [1] and knn_module.torch.cuda.device_count is torch.cuda.device_count
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert knn_module.torch.cuda.current_device() == -1 == torch.zeros(1).get_device()
    knn_module.torch.cuda.set_device(0)
    assert seen == [1] and knn_module.torch.Tensor is torch.Tensor


def test_a_plain_import_patches_nothing_and_the_shim_does_without_mmdet3d() -> None:
    code = '''
import sys
sys.modules['mmdet3d'] = None
import mmpapers, torch
assert not any(name.startswith('mmcv.ops') for name in sys.modules)
from mmpapers.compat import points
from mmpapers.ops import boundary
boundary.install()
points.install()
from mmcv import ops
print(ops.furthest_point_sample(torch.eye(3)[None], 2).tolist(), ops.knn(1, torch.eye(3)[None]).tolist())
'''
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split('\n')[0] == '[[0, 2]] [[[0, 1, 2]]]'
    assert 'mmpapers.compat.points' in SHIMS
