"""Cases of the op benchmark: voxels, dynamic scatter and sparse convolution on the scan of a street."""

from collections.abc import Callable, Sequence
from importlib import import_module, util
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from .benchmark_ops_conv import Case
from .stock_clouds import street

RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)  # of SECOND on KITTI, like what follows
FINE, PILLAR = (0.05, 0.05, 0.1), (0.16, 0.16, 4.0)
# Channels of the four stages of the encoder, and paddings where they halve the grid; the defaults of mmdet3d.
STAGES = ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64))
PADDING = (1, 1, (0, 1, 1))


def _scan(rays: int = 1800) -> Tensor:
    rng = np.random.default_rng(0)
    boxes = np.hstack([rng.uniform((4, -28, -1.73), (66, 28, -1.73), (25, 3)),
                       rng.uniform((1, 0.6, 1.5), (5, 2, 2), (25, 3)), rng.uniform(-3, 3, (25, 1))])
    return torch.from_numpy(street(rng, boxes, beams=64, rays=rays)[:, :4])


def _voxelize(size: tuple, points: int, voxels: int) -> tuple[Callable, Sequence]:
    from mmcv.ops.voxelize import voxelization
    return voxelization, (_scan(), size, RANGE, points, voxels)


def _scatter(reduce: str) -> tuple[Callable, Sequence]:
    from mmcv.ops.scatter_points import dynamic_scatter
    from mmcv.ops.voxelize import voxelization
    coors = voxelization(_scan(), PILLAR, RANGE, -1, -1)
    return lambda feats: dynamic_scatter(feats, coors, reduce)[0], (torch.randn(len(coors), 64, requires_grad=True),)


def _encoder(module: str) -> tuple[Callable, Sequence]:
    """SECOND's encoder of the layers of a module, without what makes it dense at the end."""
    from mmcv.ops.voxelize import voxelization
    layers = import_module(module)
    _, coors, _ = voxelization(_scan(), FINE, RANGE, 5, 20000)
    indices = torch.cat([coors.new_zeros(len(coors), 1), coors], 1)
    net = [layers.SubMConv3d(4, 16, 3, bias=False, indice_key='in')]
    for i, (inside, stage) in enumerate(pairwise(((16,), *STAGES))):
        width = inside[-1]
        for j, channels in enumerate(stage):
            if i and not j:
                conv = layers.SparseConv3d(width, channels, 3, 2, PADDING[i - 1], bias=False)
            else:
                conv = layers.SubMConv3d(width, channels, 3, bias=False, indice_key=f'stage{i}')
            net += [conv, nn.BatchNorm1d(channels), nn.ReLU()]
            width = channels
    net = layers.SparseSequential(*net, layers.SparseConv3d(64, 128, (3, 1, 1), (2, 1, 1), bias=False))

    def run(features: Tensor) -> Tensor:
        return net(layers.SparseConvTensor(features, indices, [41, 1600, 1408], 1)).features

    return run, (torch.randn(len(coors), 4, requires_grad=True),)


CASES = [
    Case('hard_voxelize', '110k points, 20000 voxels of 5', lambda: _voxelize(FINE, 5, 20000)),
    Case('hard_voxelize', '110k points, 16000 pillars of 32', lambda: _voxelize(PILLAR, 32, 16000)),
    Case('dynamic_voxelize', '110k points', lambda: _voxelize(FINE, -1, -1)),
    Case('dynamic_scatter', 'max, 110k points, 64 channels', lambda: _scatter('max')),
    Case('dynamic_scatter', 'mean, 110k points, 64 channels', lambda: _scatter('mean')),
    Case('sparse_encoder', 'SECOND, 20000 voxels, layers of mmcv', lambda: _encoder('mmcv.ops')),
]
if util.find_spec('spconv'):
    CASES.append(Case('sparse_encoder', 'SECOND, 20000 voxels, layers of spconv', lambda: _encoder('spconv.pytorch')))
