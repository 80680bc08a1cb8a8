"""DENFIConv, DENFINeck and the detectors: loops, limit cases, what inference leaves out, training, errors."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet3d.models.detectors import VoxelNet
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmpapers.models import AuxNeckCenterPoint, AuxNeckVoxelNet, DENFIConv, DENFINeck
from mmpapers.projects.denfi.geometry import deform_offsets, sampling_positions
from mmpapers.registry import MODELS

pytestmark = pytest.mark.det3d
CONFIGS = Path(__file__).parents[3] / 'projects/denfi/configs'
AREA = [0., -6.4, -3., 12.8, 6.4, 1.]
PROPOSAL = dict(num_classes=5, point_cloud_range=AREA, voxel_size=[.8, .8, 4], stride=2)  # 8 x 8 cells
BOXES = torch.tensor([[4., 0., -1.7, 3.9, 1.6, 1.5, .1], [9., 3., -1.7, 3.8, 1.6, 1.5, 1.6]])


def neck(**options: Any) -> DENFINeck:
    """A neck for 6 channels whose boundaries differ from cell to cell."""
    made = DENFINeck(6, options.pop('proposal', PROPOSAL), **options)
    made.init_weights()
    torch.nn.init.normal_(made.proposal.reg.weight, std=.3)
    return made


def instances(boxes: Tensor = BOXES, frames: int = 2) -> list[InstanceData]:
    return [InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1]),
                         labels_3d=torch.arange(len(boxes)) % 2) for _ in range(frames)]


def batch(boxes: Tensor = BOXES) -> dict:
    """Two clouds on AREA with labelled boxes, as a data loader returns them."""
    span = torch.tensor([12.8, 12.8, 4., 1.])
    clouds = [torch.rand(600, 4) * span + torch.tensor([0., -6.4, -3., 0.]) for _ in range(2)]
    samples = []
    for i, found in enumerate(instances(boxes)):
        samples.append(Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, sample_idx=i)))
        samples[-1].gt_instances_3d = found
    return dict(inputs=dict(points=clouds), data_samples=samples)


def bilinear(image: Tensor, y: float, x: float) -> float:
    """A sample of (H, W) with zeros outside."""
    total, top, left = 0., math.floor(y), math.floor(x)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            total += float(image[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_conv_samples_the_boundaries() -> None:
    """The refined map against a loop over cells, channels and taps, the taps from the note's formulas."""
    made = neck(fuse='replace').eval()
    x = torch.rand(1, 6, 8, 8)
    distances, axis = made.proposal.decode(made.proposal(x).detach())
    offsets = deform_offsets(sampling_positions(distances, axis), made.proposal.grid)
    with torch.no_grad():
        found = made.conv(x, offsets)[0]
    depthwise, kernel = torch.zeros(6, 8, 8), made.conv.depthwise.weight.detach()
    for row in range(8):
        for column in range(8):
            left, right, top, bottom = distances[0, :, row, column].tolist()
            turn = float(axis[0, row, column])
            for j, v in enumerate((-bottom, (top - bottom) / 2, top)):
                for i, u in enumerate((-left, (right - left) / 2, right)):
                    dx, dy = u * math.cos(turn) - v * math.sin(turn), u * math.sin(turn) + v * math.cos(turn)
                    for channel in range(6):
                        sample = bilinear(x[0, channel], row + dy / 1.6, column + dx / 1.6)
                        depthwise[channel, row, column] += float(kernel[channel, 0, j, i]) * sample
    expected = F.conv2d(depthwise[None], made.conv.pointwise.weight)[0].detach()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_boundaries_of_a_cell_make_an_ordinary_separable_convolution() -> None:
    conv, x = DENFIConv(6, 4), torch.randn(2, 6, 8, 7, requires_grad=True)
    distances, grid = torch.full((2, 4, 8, 7), 1.6), neck().proposal.grid
    offsets = deform_offsets(sampling_positions(distances, torch.zeros(2, 8, 7)), grid)
    expected = F.conv2d(F.conv2d(x, conv.depthwise.weight, padding=1, groups=6), conv.pointwise.weight)
    found = conv(x, offsets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad((out * weights).sum(), [x, *conv.parameters()])
                            for out in (found, expected))):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_control_samples_the_regular_grid() -> None:
    """With ``guided=False`` nothing but the sampling differs: same parameters, same losses, a plain convolution."""
    control, guided = neck(guided=False, fuse='replace').eval(), neck(fuse='replace').eval()
    guided.load_state_dict(control.state_dict())
    x = torch.rand(2, 6, 8, 8)
    conv = control.conv
    expected = F.conv2d(F.conv2d(x, conv.depthwise.weight, padding=1, groups=6), conv.pointwise.weight)
    expected = F.relu(control.norm(expected))
    with torch.no_grad():
        torch.testing.assert_close(control([x])[0], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(guided([x])[0], expected, atol=1e-2)
        losses = [n.forward_train([x], instances())[1] for n in (control, guided)]
    assert losses[0].keys() == losses[1].keys() and all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])


@pytest.mark.parametrize('training', [True, False])
def test_added_map_passes_unchanged_at_first(training: bool) -> None:
    x = torch.rand(2, 6, 8, 8)
    made = neck().train(training)
    assert torch.equal(made([x])[0], x)
    assert not torch.allclose(neck(fuse='replace').train(training)([x])[0], x)
    made([x])[0].sum().backward()
    assert made.norm.weight.grad.abs().sum() > 0  # it does not stay so


@pytest.mark.parametrize('detached', [True, False])
def test_detection_losses_reach_the_boundaries_only_on_request(detached: bool) -> None:
    made = neck(fuse='replace', detach_offset=detached)
    (made([torch.rand(2, 6, 8, 8)])[0] * torch.randn(2, 6, 8, 8)).sum().backward()
    grad = made.proposal.reg.weight.grad
    if detached:
        assert grad is None
    else:
        assert grad[:4].abs().sum() > 0 and grad[8:].abs().sum() > 0


class Shapes(TorchDispatchMode):
    """Record the shape of every tensor that any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(o.shape) for o in (out if isinstance(out, (tuple, list)) else [out])
                      if isinstance(o, Tensor)}
        return out


def test_inference_has_no_class_scores() -> None:
    """K = 5 channels appear in training, never in inference, which even works without the branch."""
    made, x = neck().eval(), torch.rand(2, 6, 8, 8)
    with Shapes() as shapes, torch.no_grad():
        made.forward_train([x], instances())
    assert (2, 5, 8, 8) in shapes.seen
    with Shapes() as shapes, torch.no_grad():
        expected = made([x])[0]
    assert shapes.seen and not any(5 in shape for shape in shapes.seen)
    del made.proposal.cls
    assert torch.equal(made([x])[0], expected)


def test_aux_weight_scales_the_losses() -> None:
    made, x = neck(), torch.rand(2, 6, 8, 8)
    _, ones = made.forward_train([x], instances())
    made.aux_weight = .25
    _, quarters = made.forward_train([x], instances())
    assert set(ones) == {f'loss_boundary_{n}' for n in ('cls', 'iou', 'bin', 'res')}
    assert all(torch.equal(quarters[n], ones[n] * .25) and ones[n] > 0 for n in ones)


def test_half_precision_keeps_losses_in_float32() -> None:
    made, x = neck(), torch.rand(2, 6, 8, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps, losses = made.forward_train([x], instances())
    assert maps[0].isfinite().all()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def build(**changes: Any) -> AuxNeckVoxelNet | VoxelNet:
    """The tiny PointPillars, with its second neck unless it is a plain VoxelNet."""
    cfg = Config.fromfile(CONFIGS / 'denfi_pointpillars_tiny-cpu.py')
    init_default_scope(cfg.default_scope)
    cfg.model.update(changes)
    if cfg.model.type == 'VoxelNet':
        cfg.model.pop('aux_neck')
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def step(model: torch.nn.Module, data: dict) -> dict[str, float]:
    """One step of SGD; the terms that were logged."""
    optimizer = torch.optim.SGD(model.parameters(), lr=.01)
    total, terms = model.train().parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    total.backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


def test_a_plain_checkpoint_predicts_the_same_until_trained() -> None:
    """PointPillars' weights fit; with ``fuse='add'`` DENFI starts from its predictions; a step changes both necks."""
    model, plain = build(), build(type='VoxelNet')
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and {name.split('.')[0] for name in missing} == {'aux_neck'}
    inputs = model.data_preprocessor(batch(), False)['inputs']
    with torch.no_grad():  # a copy, because mmdet3d's pillar encoder writes into the voxels
        one, other = (net.eval()._forward(copy.deepcopy(inputs)) for net in (plain, model))
    for a, b in zip(one, other):
        assert torch.equal(a[0], b[0])
    before = {n: p.clone() for n, p in model.aux_neck.named_parameters()}
    terms = step(model, batch())
    assert {'loss_cls', 'loss_bbox', 'loss_boundary_iou'} <= set(terms) and all(map(math.isfinite, terms.values()))
    after = dict(model.aux_neck.named_parameters())
    for name in ('proposal.cls.weight', 'proposal.reg.weight', 'norm.weight'):
        assert not torch.equal(before[name], after[name]), name


def centerpoint() -> AuxNeckCenterPoint:
    """A CenterPoint with pillars on 12.8 x 12.8 m and two tasks."""
    init_default_scope('mmdet3d')
    voxel, bn = [.4, .4, 4.], dict(type='BN', eps=1e-3)
    head = dict(
        type='CenterHead', in_channels=8, share_conv_channel=8,
        tasks=[dict(num_class=1, class_names=['car']), dict(num_class=1, class_names=['truck'])],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        bbox_coder=dict(type='CenterPointBBoxCoder', post_center_range=AREA, max_num=20, score_threshold=.0,
                        out_size_factor=2, voxel_size=voxel[:2], code_size=9, pc_range=AREA[:2]),
        separate_head=dict(type='SeparateHead', init_bias=-2.19, final_kernel=3),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=.25))
    model = MODELS.build(ConfigDict(
        type='mmpapers.AuxNeckCenterPoint',
        data_preprocessor=dict(type='Det3DDataPreprocessor', voxel=True, voxel_layer=dict(
            max_num_points=8, point_cloud_range=AREA, voxel_size=voxel, max_voxels=(500, 500))),
        pts_voxel_encoder=dict(type='PillarFeatureNet', in_channels=4, feat_channels=[4], with_distance=False,
                               voxel_size=voxel, point_cloud_range=AREA, legacy=False),
        pts_middle_encoder=dict(type='PointPillarsScatter', in_channels=4, output_shape=(32, 32)),
        pts_backbone=dict(type='SECOND', in_channels=4, out_channels=[4, 4], layer_nums=[1, 1], layer_strides=[2, 2],
                          norm_cfg=bn),
        pts_neck=dict(type='SECONDFPN', in_channels=[4, 4], out_channels=[4, 4], upsample_strides=[1, 2], norm_cfg=bn),
        aux_neck=dict(type='mmpapers.DENFINeck', in_channels=8, proposal=dict(
            num_classes=2, point_cloud_range=AREA, voxel_size=voxel, stride=2)),
        pts_bbox_head=head,
        train_cfg=dict(pts=dict(grid_size=[32, 32, 1], voxel_size=voxel, out_size_factor=2, dense_reg=1,
                                gaussian_overlap=.1, max_objs=20, min_radius=2, point_cloud_range=AREA,
                                code_weights=[1.] * 10)),
        test_cfg=dict(pts=dict(post_center_limit_range=AREA, max_per_img=20, max_pool_nms=False, score_threshold=.0,
                               min_radius=[4, 12], out_size_factor=2, voxel_size=voxel[:2], nms_type='rotate',
                               pre_max_size=20, post_max_size=10, nms_thr=.2))))
    model.init_weights()
    return model


def test_centerpoint_trains_and_predicts() -> None:
    model = centerpoint()
    boxes = torch.cat([BOXES, torch.zeros(2, 2)], 1)  # with velocities
    terms = step(model, batch(boxes))
    assert {'task0.loss_heatmap', 'task1.loss_bbox', 'loss_boundary_cls', 'loss_boundary_res'} <= set(terms)
    assert all(math.isfinite(value) for value in terms.values())
    model.eval()
    del model.aux_neck.proposal.cls
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch(boxes), False), mode='predict')
    assert len(results) == 2 and results[0].pred_instances_3d.bboxes_3d.tensor.shape[1] == 9


@pytest.mark.parametrize(('change', 'message'), [
    (dict(voxel_size=[.64, .32, 4]), r'proposal.voxel_size=\[0.64, 0.32, 4\] differs from model.data_preprocessor.'),
    (dict(point_cloud_range=[0, -20.48, -3, 20.48, 20.48, 1]), 'proposal.point_cloud_range=.* differs from model.data'),
    (dict(num_classes=2), 'proposal.num_classes=2, but model.bbox_head has 3 classes'),
    (dict(stride=3), 'it must be a whole number of cells'),
])
def test_disagreement_with_the_model_names_both_keys(change: dict, message: str) -> None:
    cfg = Config.fromfile(CONFIGS / 'denfi_pointpillars_tiny-cpu.py')
    init_default_scope(cfg.default_scope)
    cfg.model.aux_neck.proposal.update(change)
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)


def test_wrong_stride_and_other_errors_name_the_key() -> None:
    made = neck(proposal=PROPOSAL | dict(stride=1))
    with pytest.raises(ValueError, match='proposal.stride=1 make a map of 16 x 16 .* gives 8 x 8; proposal.stride=2 '):
        made([torch.zeros(1, 6, 8, 8)])
    with pytest.raises(ValueError, match='aux_neck refines one map, but the neck gives 2'):
        neck()([torch.zeros(1, 6, 8, 8)] * 2)
    with pytest.raises(ValueError, match="aux_neck.fuse='cat' is unknown; choose 'add' or 'replace'"):
        neck(fuse='cat')
    with pytest.raises(ValueError, match='aux_neck.aux_weight must not be negative'):
        neck(aux_weight=-1)
