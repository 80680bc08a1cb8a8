"""mmcv's point modules and mmdet3d's point backbones on the CPU, through compat.setup()."""

import pytest
import torch
from mmcv.ops import GroupAll, PointsSampler, QueryAndGroup, furthest_point_sample, furthest_point_sample_with_dist, knn
from torch import Tensor

pytestmark = [pytest.mark.core, pytest.mark.det3d]

BN = dict(type='BN2d')
SSG = dict(
    type='PointNet2SASSG', in_channels=4, num_points=(64, 32, 16, 8), radius=(0.2, 0.4, 0.8, 1.2),
    num_samples=(8, 4, 4, 4), sa_channels=((8, 16), (16, 16), (16, 16), (16, 16)), fp_channels=((16, 16), (16, 16)),
    norm_cfg=BN, sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=True))
MSG = dict(
    type='PointNet2SAMSG', in_channels=4, num_points=(64, 32, (8, 8)), radii=((0.2, 0.4), (0.4, 0.8), (0.8, 1.6)),
    num_samples=((4, 8), (4, 8), (4, 4)), sa_channels=(((4, 8), (4, 8)), ((8, 8), (8, 8)), ((8, 8), (8, 8))),
    aggregation_channels=(8, 16, 16), fps_mods=(('D-FPS'), ('FS'), ('F-FPS', 'D-FPS')),
    fps_sample_range_lists=((-1), (-1), (32, -1)), norm_cfg=BN,
    sa_cfg=dict(type='PointSAModuleMSG', pool_mod='max', use_xyz=True, normalize_xyz=False))
PACONV = dict(
    SSG, radius=(None, None, None, None), fp_channels=(), sa_cfg=dict(
        type='PAConvSAModule', pool_mod='max', use_xyz=True, normalize_xyz=False, paconv_num_kernels=[4, 4],
        paconv_kernel_input='w_neighbor', scorenet_input='w_neighbor_dist',
        scorenet_cfg=dict(mlp_channels=[8], score_norm='softmax', temp_factor=1.0, last_bn=False)))
FUSED = dict(PACONV, sa_cfg=dict(PACONV['sa_cfg'], type='PAConvCUDASAModule'))  # calls assign_score_withk


@pytest.fixture
def cloud() -> Tensor:
    """Two clouds of 200 points with four features; a quarter of the points are there twice."""
    points = torch.rand(2, 200, 4)
    points[:, 150:] = points[:, :50]
    return points


@pytest.mark.parametrize('cfg', [SSG, MSG, PACONV, FUSED], ids=['SSG', 'MSG', 'PAConv', 'PAConvCUDA'])
def test_backbones_train(cfg: dict, cloud: Tensor) -> None:
    from mmdet3d.models import backbones  # noqa: F401
    from mmdet3d.registry import MODELS
    net = MODELS.build(dict(cfg, _scope_='mmdet3d'))
    cloud.requires_grad_()
    out = net(cloud)
    features = [*out['sa_features'], *out.get('fp_features', ())]
    sum(f.square().mean() for f in features).backward()
    assert all(torch.isfinite(f).all() for f in features)
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
    assert cloud.grad.isfinite().all() and cloud.grad.any()
    indices = out.get('fp_indices', out['sa_indices'])[-1]
    assert indices.dtype == torch.int64 and indices.min() >= 0 and indices.max() < 200


def test_both_forms_of_paconv_agree(cloud: Tensor) -> None:
    from mmdet3d.models.layers.paconv.paconv import PAConv, PAConvCUDA
    settings = dict(in_channels=4, out_channels=6, num_kernels=3, norm_cfg=None, act_cfg=None,
                    scorenet_cfg=dict(mlp_channels=[8], score_norm='softmax', temp_factor=1.0, last_bn=False))
    plain, fused = PAConv(**settings), PAConvCUDA(**settings)
    fused.load_state_dict(plain.state_dict())
    xyz, features = cloud[..., :3].transpose(1, 2).contiguous(), cloud.transpose(1, 2).contiguous()
    index = knn(5, xyz, xyz[..., :20].contiguous(), True).transpose(1, 2)  # the nearest is the centre
    rows = index.flatten(1)[:, None].long()
    grouped = features.gather(2, rows.expand(-1, 4, -1)).view(2, 4, 20, 5)
    places = xyz.gather(2, rows.expand(-1, 3, -1)).view(2, 3, 20, 5)
    expected = plain((grouped, places))[0]
    out = fused((features, places, index.long()))[0]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('mode, samples', [('D-FPS', 8), ('F-FPS', 8), ('FS', 16)])
def test_samplers(mode: str, samples: int, cloud: Tensor) -> None:
    xyz, features = cloud[..., :3].contiguous(), cloud.transpose(1, 2).contiguous()
    index = PointsSampler([8], [mode], [-1])(xyz, features)
    both = torch.cat([xyz, cloud], 2)
    by_place, by_feature = (furthest_point_sample(xyz, 8),
                            furthest_point_sample_with_dist(torch.cdist(both, both).square(), 8))
    expected = {'D-FPS': by_place, 'F-FPS': by_feature, 'FS': torch.cat([by_feature, by_place], 1)}[mode]
    assert torch.equal(index, expected) and index.shape == (2, samples)
    assert torch.equal(PointsSampler([8], [mode], [-1])(xyz.half(), features.half())[:, 0], index[:, 0])


def test_query_and_group(cloud: Tensor) -> None:
    xyz, features = cloud[..., :3].contiguous(), cloud.transpose(1, 2).contiguous().requires_grad_()
    centres = xyz[:, :10].contiguous()
    out, grouped, index = QueryAndGroup(0.3, 6, normalize_xyz=True, return_grouped_xyz=True,
                                        return_grouped_idx=True)(xyz, centres, features)
    assert out.shape == (2, 7, 10, 6) and index.dtype == torch.int32
    offset = grouped - centres.transpose(1, 2)[..., None]
    assert offset.norm(dim=1).max() < 0.3
    torch.testing.assert_close(out[:, :3], offset / 0.3)
    near = torch.cdist(centres, xyz) < 0.3
    assert torch.equal(index[..., 0].long(), near.int().argmax(2))
    nearest = QueryAndGroup(None, 6)(xyz, centres, features)
    assert nearest[:, :3, :, 0].eq(0).all() and nearest.shape == (2, 7, 10, 6)
    uniform, count = QueryAndGroup(0.3, 6, uniform_sample=True, return_unique_cnt=True)(xyz, centres, features)
    assert uniform.shape == (2, 7, 10, 6) and count.min() >= 1 and count.max() <= 6
    assert GroupAll()(xyz, None, features).shape == (2, 7, 1, 200)
    out.sum().backward()
    assert features.grad.any()


def test_stacked_module_with_an_empty_cloud() -> None:
    from mmdet3d.models.layers.pointnet_modules.stack_point_sa_module import StackedSAModuleMSG
    module = StackedSAModuleMSG(in_channels=5, radius=[0.4, 0.8], sample_nums=[4, 8], mlp_channels=[[8], [8]])
    points, features = torch.rand(90, 3), torch.rand(90, 5, requires_grad=True)
    counts, centres = (torch.tensor(v, dtype=torch.int32) for v in ([60, 0, 30], [5, 4, 6]))
    _, out = module(points, counts, torch.rand(15, 3), centres, features)
    assert out.shape == (15, 16) and out.isfinite().all()
    out.square().sum().backward()
    assert features.grad.isfinite().all() and features.grad.any()
    assert all(p.grad.isfinite().all() for p in module.parameters())
