"""RoIAware and RoIPoint pooling against loops, through mmcv's modules and mmdet3d's extractors."""

import math

import pytest
import torch
from mmcv import ops
from mmcv.ops.roiaware_pool3d import RoIAwarePool3dFunction
from torch import Tensor

from mmpapers.ops import _numba, points_in_boxes, roi_pool3d

pytestmark = pytest.mark.core


@pytest.fixture(params=['numba', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the numba kernels and on the code for other devices."""
    if request.param == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
        monkeypatch.setattr(points_in_boxes, '_PAIRS', 64)
    return request.param


def make(rois: int = 5, points: int = 120, channels: int = 3, dtype: torch.dtype = torch.float64) -> tuple:
    """RoIs (one of them empty, one without size), points and features."""
    boxes = torch.cat([torch.rand(rois, 3) * 3, torch.rand(rois, 3) * 4 + 0.5, torch.rand(rois, 1) * 6], 1)
    if rois > 2:
        boxes[1, :3] = 50
        boxes[2, 3:6] = 0
    return boxes.to(dtype), torch.rand(points, 3).to(dtype) * 5, torch.randn(points, channels).to(dtype)


def members(rois: Tensor, points: Tensor, sizes: tuple, capacity: int) -> dict[tuple, list[int]]:
    """Points of each voxel (RoI, x, y, z) in the order of the cloud, ``capacity`` - 1 at most."""
    found = {}
    inside = ops.points_in_boxes_cpu(points[None], rois[None])[0]
    for r, (x, y, z, *extent, turn) in enumerate(rois.tolist()):
        c, s = math.cos(turn), math.sin(turn)
        for m, (px, py, pz) in enumerate(points.tolist()):
            if inside[m, r]:
                at = ((px - x) * c + (py - y) * s + extent[0] / 2, (py - y) * c - (px - x) * s + extent[1] / 2, pz - z)
                cell = [min(max(int(v / (e / n)), 0), n - 1) for v, e, n in zip(at, extent, sizes)]
                voxel = found.setdefault((r, *cell), [])
                if len(voxel) < capacity - 1:
                    voxel.append(m)
    return found


@pytest.mark.parametrize('mode', ['max', 'avg'])
@pytest.mark.parametrize('sizes, capacity', [((2, 3, 4), 16), ((1, 1, 1), 4), ((5, 2, 1), 2)])
def test_roiaware_pooling_is_its_definition(path: str, sizes: tuple, capacity: int, mode: str) -> None:
    rois, points, features = make()
    features.requires_grad_()
    pooled = ops.RoIAwarePool3d(sizes, capacity, mode)(rois, points, features)
    expected = torch.zeros(5, *sizes, 3, dtype=torch.float64)
    voxels = members(rois, points, sizes, capacity)
    assert len(voxels) >= 2
    for voxel, held in voxels.items():
        expected[voxel] = features[held].amax(0) if mode == 'max' else features[held].mean(0)
    torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=0)
    weight = torch.randn_like(pooled)
    grad, = torch.autograd.grad((pooled * weight).sum(), features)
    expected_grad, = torch.autograd.grad((expected * weight).sum(), features)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=0)


def test_what_roiaware_pooling_writes(path: str) -> None:
    rois, points, features = make(dtype=torch.float32)
    sizes, capacity = (2, 2, 2), 5
    argmax = torch.zeros(5, *sizes, 3, dtype=torch.int32)
    table, pooled = torch.zeros(5, *sizes, capacity, dtype=torch.int32), torch.zeros(5, *sizes, 3)
    roi_pool3d.roiaware_pool3d_forward(rois, points, features, argmax, table, pooled, pool_method=0)
    voxels = members(rois, points, sizes, capacity)
    expected = torch.zeros_like(table)
    for voxel, held in voxels.items():
        expected[voxel][:len(held) + 1] = torch.tensor([len(held), *held])
        assert argmax[voxel].tolist() == [held[i] for i in features[held].argmax(0)]
    assert torch.equal(table, expected) and table[..., 0].max() == capacity - 1
    assert (argmax[table[..., 0] == 0] == -1).all() and (argmax[table[..., 0] > 0] >= 0).all()


def test_of_equal_features_the_first_point_wins_and_nan_never(path: str) -> None:
    rois, points = torch.tensor([[0., 0, 0, 4, 4, 4, 0]]), torch.ones(4, 3)
    features = torch.tensor([[1., float('nan'), float('nan')], [2, 3, float('nan')], [2, 3, float('-inf')], [0, 1, -1]])
    features[3, 2] = float('nan')
    features.requires_grad_()
    pooled = ops.RoIAwarePool3d(1, 16, 'max')(rois, points, features)
    assert pooled.flatten().tolist() == [2, 3, 0]
    pooled.sum().backward()
    assert features.grad.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize('mode', [0, 1])
def test_roiaware_pooling_gradcheck(path: str, mode: int) -> None:
    rois, points, features = make(points=40)
    assert torch.autograd.gradcheck(
        lambda f: RoIAwarePool3dFunction.apply(rois, points, f, (2, 1, 2), 9, mode), features.requires_grad_())


def test_roiaware_pooling_of_nothing(path: str) -> None:
    rois, points, features = make()
    pool = ops.RoIAwarePool3d(2, 8, 'max')
    assert pool(rois[:0], points, features).shape == (0, 2, 2, 2, 3)
    leaf = features[:0].requires_grad_()
    empty = pool(rois, points[:0], leaf)
    empty.sum().backward()
    assert empty.shape == (5, 2, 2, 2, 3) and not empty.any() and leaf.grad.shape == (0, 3)
    bad = points.clone()
    bad[::2] = float('nan')
    assert torch.equal(pool(rois, bad, features), pool(rois, bad[1::2], features[1::2]))


def test_half_precision_features(path: str) -> None:
    rois, points, features = make(dtype=torch.float32)
    for mode in ('max', 'avg'):
        pool = ops.RoIAwarePool3d(2, 16, mode)
        leaves = [features.half().requires_grad_(), features.half().float().requires_grad_()]
        outs = [pool(rois, points, leaf) for leaf in leaves]
        assert torch.equal(outs[0], outs[1].half())
        for out in outs:
            out.sum().backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad.half(), atol=2e-3, rtol=0)


def test_extractor_of_mmdet3d(path: str) -> None:
    from mmdet3d.models.roi_heads.roi_extractors import Single3DRoIAwareExtractor
    extractor = Single3DRoIAwareExtractor(dict(type='RoIAwarePool3d', out_size=3, max_pts_per_voxel=16, mode='max'))
    rois, points, features = make(dtype=torch.float32)
    batch = torch.arange(120) % 2
    result = extractor(features, points, batch, torch.cat([(torch.arange(5) % 2).sort()[0][:, None].float(), rois], 1))
    expected = [extractor.roi_layer(rois[own], points[batch == k], features[batch == k])
                for k, own in enumerate((slice(0, 3), slice(3, 5)))]
    assert torch.equal(result, torch.cat(expected)) and result.any()


@pytest.mark.parametrize('samples', [1, 7, 64])
def test_roipoint_pooling_is_its_definition(path: str, samples: int) -> None:
    clouds = [make(4, 60, 2, torch.float32) for _ in range(2)]
    rois, points, features = (torch.stack(parts) for parts in zip(*clouds))
    pooled, empty = ops.RoIPointPool3d(samples)(points, features, rois)
    assert pooled.shape == (2, 4, samples, 5) and empty.dtype == torch.int32
    inside = ops.points_in_boxes_cpu(points, rois)
    for b in range(2):
        for r in range(4):
            held = inside[b, :, r].nonzero()[:samples, 0].tolist()
            assert empty[b, r] == (not held)
            chosen = [held[k % len(held)] for k in range(samples)] if held else []
            expected = torch.cat([points[b], features[b]], 1)[chosen] if held else torch.zeros(samples, 5)
            assert torch.equal(pooled[b, r], expected)
    assert empty.any() and not empty.all()


def test_roipoint_pooling_of_nothing(path: str) -> None:
    rois, points, features = make(dtype=torch.float32)
    pool = ops.RoIPointPool3d(4)
    pooled, empty = pool(points[None, :0], features[None, :0], rois[None])
    assert not pooled.any() and empty.tolist() == [[1] * 5]
    pooled, empty = pool(points[None], features[None], rois[None, :0])
    assert pooled.shape == (1, 0, 4, 6) and empty.shape == (1, 0)
    pooled, empty = pool(points[None, :1], features[None, :1, :0], torch.tensor([[[*points[0].tolist(), 1, 1, 1, 0]]]))
    assert torch.equal(pooled, points[:1].expand(1, 1, 4, 3)) and empty.tolist() == [[0]]


def test_wrong_shapes_are_named() -> None:
    rois, points, features = make()
    with pytest.raises(ValueError, match=r'roiaware_pool3d: needs rois \(R, 7\), .* \(5, 8\), \(120, 3\) and'):
        ops.RoIAwarePool3d(2)(torch.ones(5, 8), points, features)
    with pytest.raises(ValueError, match=r'roipoint_pool3d: .* got \(1, 120, 3\), \(1, 7, 3\) and \(1, 5, 7\)'):
        ops.RoIPointPool3d(2)(points[None], features[None, :7], rois[None])
