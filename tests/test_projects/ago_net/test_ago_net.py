"""AGO-Net: mask, loss, re-weighting, deformable layers, and the distiller on a PointPillars and a SECOND."""

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from mmpapers.distill import DistillError
from mmpapers.projects.ago_net.adapt import DeformAdaptNeck
from mmpapers.projects.ago_net.ago_net import AGONet
from mmpapers.projects.ago_net.loss import AssociationLoss, InformativeReweight
from mmpapers.projects.ago_net.mask import foreground, signed_distance

pytestmark = pytest.mark.det3d
CONFIGS = Path(__file__).parents[3] / 'projects/ago_net/configs'
AREA = (0., -6.4, -3., 12.8, 6.4, 1.)
QUIET = pytest.mark.filterwarnings("ignore:no sample has a conceptual cloud")


def twins(tiny_pair: Callable, **settings: Any) -> tuple[AGONet, dict]:
    """A student and a twin of the same shape and weights, and a batch without conceptual clouds."""
    cfg, _, batch = tiny_pair('voxel')
    init_default_scope('mmdet3d')
    model = AGONet(student=copy.deepcopy(cfg), teacher=cfg, checkpoint='random', **settings).train()
    model.teacher.model.load_state_dict(model.state_dict())
    return model, batch()


def losses(model: AGONet, batch: dict) -> dict[str, Any]:
    """The losses of a training step."""
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def conceptual(batch: dict, clouds: list[Tensor]) -> dict:
    """The batch with conceptual clouds."""
    batch = copy.deepcopy(batch)
    for sample, cloud in zip(batch['data_samples'], clouds):
        sample.conceptual_points = cloud
    return batch


# Loss ----------------------------------------------------------------------------------------------------------------

def test_loss_of_a_hand_made_map_counts_cells_and_not_the_mask() -> None:
    student = torch.tensor([[[[1., 2.], [3., 4.]], [[0., 0.], [0., 5.]]]])
    teacher = torch.tensor([[[[1.5, 9.], [1., 4.]], [[0., 9.], [0., 0.]]]])
    mask = torch.tensor([[[[1., 0.], [.5, 1.]]]])
    # cells: (.5 0 | 0) -> .125; (half of 3 and 1) 1 -> .5; (0 | 5) -> 4.5; three cells
    assert AssociationLoss()(student, teacher, mask).item() == pytest.approx((.125 + .5 + 4.5) / 3)


def test_loss_equals_that_of_a_loop_with_its_released_form() -> None:
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 5, 6, 7), 3 * torch.randn(2, 5, 6, 7)
    mask = torch.rand(2, 1, 6, 7) * (torch.rand(2, 1, 6, 7) > .6)
    total, count = 0., 0
    for b in range(2):
        for y in range(6):
            for x in range(7):
                m = mask[b, 0, y, x].item()
                count += m != 0
                for c in range(5):
                    d = abs(m * student[b, c, y, x].item() - m * teacher[b, c, y, x].item())
                    total += d * d / 2 if d < 1 else d - .5
    assert AssociationLoss()(student, teacher, mask).item() == pytest.approx(total / count, rel=1e-5)
    released = torch.nn.SmoothL1Loss(reduction='sum')(student * mask, teacher * mask) / torch.sum(mask != 0)
    torch.testing.assert_close(AssociationLoss()(student, teacher, mask), released)


@pytest.mark.parametrize('channels', [None, 4])
def test_an_empty_mask_gives_0_and_finite_gradients(channels: int | None) -> None:
    loss, student = AssociationLoss(channels), torch.randn(2, 4, 3, 3, requires_grad=True)
    value = loss(student, torch.randn(2, 4, 3, 3), torch.zeros(2, 1, 3, 3))
    value.backward()
    assert value == 0 and student.grad.abs().sum() == 0
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())


def test_loss_refuses_maps_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r'\(2, 4, 3, 3\), \(2, 4, 3, 4\)'):
        AssociationLoss()(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 4), torch.zeros(2, 1, 3, 3))


def test_weights_have_mean_1_differ_by_less_than_twice_and_send_no_gradient_to_the_maps() -> None:
    module = InformativeReweight(6)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=.5)
    student, teacher = torch.randn(3, 6, 8, 8, requires_grad=True), torch.randn(3, 6, 8, 8, requires_grad=True)
    mask = (torch.rand(3, 1, 8, 8) > .7).float()
    weight = module(student, teacher, mask)
    assert weight.shape == (int(mask.sum()), 6)
    assert weight.mean().item() == pytest.approx(1, abs=1e-5) and weight.std() > .01
    assert weight.max() <= 2 * weight.min()
    weight.square().sum().backward()
    assert student.grad is None and teacher.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_loss_with_weights_is_the_weighted_sum() -> None:
    loss = AssociationLoss(4)
    student, teacher, mask = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5), (torch.rand(2, 1, 5, 5) > .5).float()
    where = mask.squeeze(1) != 0
    error = torch.nn.functional.smooth_l1_loss(student, teacher, reduction='none').permute(0, 2, 3, 1)[where]
    expected = (loss.reweight(student, teacher, mask) * error).sum() / where.sum()
    torch.testing.assert_close(loss(student, teacher, mask), expected)
    assert loss(teacher, teacher, mask) == 0


# Mask ----------------------------------------------------------------------------------------------------------------

def test_distance_equals_a_loop_over_cells() -> None:
    boxes = torch.tensor([[4., 1., 0., 4., 2., 1.5, .7], [9., -3., 0., 1., 1., 1., -2.]])
    found = signed_distance(boxes, (8, 10), AREA)
    assert found.shape == (2, 8, 10)
    for n, (x, y, _, length, width, _, yaw) in enumerate(boxes.tolist()):
        for row in range(8):
            for column in range(10):
                dx, dy = (column + .5) * 1.28 - x, -6.4 + (row + .5) * 1.6 - y
                a = abs(math.cos(yaw) * dx + math.sin(yaw) * dy) - length / 2
                b = abs(-math.sin(yaw) * dx + math.cos(yaw) * dy) - width / 2
                expected = max(a, b) if max(a, b) < 0 else math.hypot(max(a, 0), max(b, 0))
                assert found[n, row, column].item() == pytest.approx(expected, abs=1e-4)


def test_filled_masks_stay_near_footprints_and_every_object_has_a_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 7, generator=generator) * torch.tensor([12.8, 12.8, 1, 4, 2, 2, 6.3])
    boxes[:, 1] -= 6.4
    boxes[:, 3:6] += .05
    mask = foreground(boxes, (32, 32), AREA)
    assert not mask[(signed_distance(boxes, (32, 32), AREA) > .4 + 1e-6).all(0)].any()
    assert all(foreground(box[None], (32, 32), AREA).any() for box in boxes)
    assert not foreground(boxes[:0], (32, 32), AREA).any()
    assert foreground(boxes[:1], (32, 32), AREA, margin=0.).sum() < foreground(boxes[:1], (32, 32), AREA).sum()


def test_outlines_are_bands_around_the_edge() -> None:
    box = torch.tensor([[6.4, 0., 0., 8., 6., 1., 0.]])
    band = foreground(box, (64, 64), AREA, 'outline')
    assert not band[32, 32] and band.any()
    distance = signed_distance(box, (64, 64), AREA)[0]
    assert torch.equal(band, distance.abs() <= 1.5)
    car = torch.tensor([[6.4, 0., 0., 4., 1.8, 1.5, 0.]])  # bands of 3 m fill a car, as in the released masks
    assert foreground(car, (64, 64), AREA, 'outline')[32, 32]


# Distiller -----------------------------------------------------------------------------------------------------------

def test_equal_clouds_and_weights_give_exactly_0(tiny_pair: Callable) -> None:
    model, batch = twins(tiny_pair)
    model.eval()  # batch norm of both with running statistics
    batch = conceptual(batch, [cloud.clone() for cloud in batch['inputs']['points']])
    assert losses(model, batch)['loss_association'] == 0


def test_the_twin_sees_conceptual_clouds_and_changes_nothing_of_itself(tiny_pair: Callable) -> None:
    model, batch = twins(tiny_pair)
    before = copy.deepcopy(model.teacher.model.state_dict())
    model.eval()
    dense = [torch.cat([cloud, cloud + .05]) for cloud in batch['inputs']['points']]
    terms = losses(model, conceptual(batch, dense))
    assert terms['loss_association'] > 0
    with torch.no_grad():
        inputs = model.teacher.model.data_preprocessor(conceptual(dict(batch, inputs=dict(points=dense)), dense), False)
        voxels = inputs['inputs']['voxels']
        twin = model.teacher.model
        expected = twin.middle_encoder(twin.voxel_encoder(voxels['voxels'], voxels['num_points'], voxels['coors']),
                                       voxels['coors'], 2)
    data = model.data_preprocessor(conceptual(batch, dense), True)
    record = model.teacher(model.teacher_inputs(**data), data['data_samples'], model.data_preprocessor)
    torch.testing.assert_close(record['middle_encoder'][0], expected)
    model.train()
    losses(model, conceptual(batch, dense))['loss_association'].backward()
    after = model.teacher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())
    assert model.voxel_encoder.pfn_layers[0].linear.weight.grad.abs().sum() > 0


def test_without_conceptual_clouds_the_twin_sees_the_same_and_says_so(tiny_pair: Callable) -> None:
    model, batch = twins(tiny_pair)
    model.eval()
    with pytest.warns(UserWarning, match='mmpapers.LoadConceptualPoints'):
        assert losses(model, batch)['loss_association'] == 0
    partly = conceptual(batch, [batch['inputs']['points'][0]])
    with pytest.raises(DistillError, match='1 of 2 samples'):
        losses(model, partly)


def test_prediction_needs_no_twin(tiny_pair: Callable) -> None:
    model, batch = twins(tiny_pair)
    plain = MODELS.build(Config(dict(model=model.student_cfg)).model)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert [name for name, _ in plain.named_parameters()] == [
        name for name, _ in model.named_parameters() if not name.startswith('distill_helpers')]
    model.teacher = None
    plain.eval(), model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings('error', 'no sample has a conceptual cloud')
        ours, theirs = (net(**net.data_preprocessor(copy.deepcopy(batch), False), mode='predict')
                        for net in (model, plain))
    for one, other in zip(ours, theirs):
        assert torch.equal(one.pred_instances_3d.scores_3d, other.pred_instances_3d.scores_3d)


@QUIET
def test_frames_without_objects_and_other_classes_add_nothing(tiny_pair: Callable) -> None:
    model, batch = twins(tiny_pair, classes=[5])
    assert losses(model, batch)['loss_association'] == 0
    model, batch = twins(tiny_pair)
    for sample in batch['data_samples']:
        sample.gt_instances_3d = sample.gt_instances_3d[:0]
    value = losses(model, batch)['loss_association']
    assert value == 0 and torch.isfinite(value)


@QUIET
def test_the_compared_map_follows_the_detector_or_the_config(tiny_pair: Callable) -> None:
    assert twins(tiny_pair)[0].taps_of == dict(student=dict(bev='middle_encoder'), teacher=dict(bev='middle_encoder'))
    model, batch = twins(tiny_pair, match='post', reweight=False, shape='outline')
    assert model.taps_of['student'] == dict(bev='neck')
    assert losses(model, batch)['loss_association'] > 0
    assert not list(model.helpers.parameters())
    second = Config.fromfile(CONFIGS / 'ago-net_second_toytown-cpu.py').model
    model = AGONet(student=second, teacher=second, checkpoint='random')
    assert model.taps_of['student'] == dict(bev='neck') and model.area == (0, -20.48, -3, 40.96, 20.48, 1)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(match='mid'), "match is 'pre' or 'post'"), (dict(shape='round'), "'filled' or 'outline'")])
def test_wrong_settings_name_the_choices(tiny_pair: Callable, settings: dict, message: str) -> None:
    with pytest.raises(DistillError, match=message):
        twins(tiny_pair, **settings)


def test_a_student_without_voxel_layer_needs_a_range(tiny_pair: Callable) -> None:
    cfg, _, _ = tiny_pair('voxel')
    init_default_scope('mmdet3d')
    student = MODELS.build(Config(dict(model=cfg)).model)
    del student.data_preprocessor.voxel_layer
    with pytest.raises(DistillError, match='point_cloud_range'):
        AGONet(student=student, teacher=cfg, checkpoint='random')


def test_deformable_layers_start_as_nothing_and_learn(tiny_pair: Callable) -> None:
    cfg, teacher, _ = tiny_pair('voxel')
    init_default_scope('mmdet3d')
    student = dict(cfg, middle_encoder=dict(type='mmpapers.DeformAdaptNeck', channels=4, body=cfg['middle_encoder']))
    model = AGONet(student=student, teacher=cfg, checkpoint='random')
    layer = model.middle_encoder
    assert isinstance(layer, DeformAdaptNeck) and model.taps_of['student'] == dict(bev='middle_encoder')
    features, coors = torch.randn(3, 4), torch.tensor([[0, 0, 1, 1], [0, 0, 5, 9], [1, 0, 2, 3]])
    out = layer(features, coors, 2)
    assert torch.equal(out, layer.body(features, coors, 2))
    with torch.no_grad():
        layer.layers[0][1].weight.fill_(.5)
    out = layer(features, coors, 2)
    out.square().sum().backward()
    assert not torch.equal(out, layer.body(features, coors, 2))
    assert all(parameter.grad is not None for parameter in layer.parameters())
    neck = DeformAdaptNeck(dict(type='SECONDFPN', in_channels=[4], upsample_strides=[1], out_channels=[4]), 4, layers=1)
    assert [level.shape for level in neck([torch.randn(2, 4, 5, 6)])] == [(2, 4, 5, 6)]


def test_published_configs_adapt_as_released() -> None:
    cfg = Config.fromfile(CONFIGS / 'ago-net_pointpillars_nus-3d.py')
    assert cfg.distill.shape == 'outline' and cfg.distill.classes == [0] and not cfg.distill.reweight
    for path in CONFIGS.glob('ago-net*.py'):
        cfg = Config.fromfile(path)
        steps = [step['type'] for step in cfg.train_pipeline]
        if not path.stem.endswith('tiny-cpu'):
            assert steps[-1] == 'mmpapers.SplitConceptualPoints' and 'mmpapers.LoadConceptualPoints' in steps
            assert (CONFIGS / cfg.distill.teacher).is_file()
            assert Path(cfg.distill.checkpoint).parent.name == Path(cfg.distill.teacher).stem
