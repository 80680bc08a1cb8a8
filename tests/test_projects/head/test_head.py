"""HEAD and TF-HEAD as a whole: what is transferred, compared, weighted and trained, and what a user may get wrong."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill import DistillError
from mmpapers.projects.head.head import HEAD, TFHEAD
from mmpapers.projects.head.proposals import Sampled

pytestmark = pytest.mark.det

FEW = dict(proposals=dict(nms_pre=50, max_per_img=30))
ALIGN = dict(type='RoIAlign', output_size=3, sampling_ratio=0)
SMALL = dict(
    bbox_roi_extractor=dict(type='SingleRoIExtractor', roi_layer=ALIGN),
    bbox_head=dict(
        type='Shared2FCBBoxHead', fc_out_channels=16, roi_feat_size=3, bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='L1Loss')))
BOTH = [dict(type='mmpapers.RCNNAssistant', **SMALL),
        dict(type='mmpapers.DenseAssistant', bbox_head=dict(type='FCOSHead', stacked_convs=1))]


def _build(cfg: dict) -> nn.Module:
    return MODELS.build(Config(dict(model=copy.deepcopy(cfg))).model).train()


@pytest.fixture
def make(tiny_pair: Callable) -> Callable[..., nn.Module]:
    """Build HEAD, or TF-HEAD where there are assistants, on a tiny RetinaNet and Faster R-CNN."""
    init_default_scope('mmdet')

    def build(student: dict | None = None, teacher: dict | None = None, **more: Any) -> nn.Module:
        student = student or tiny_pair('dense')[0]
        if 'assistants' in more:
            cfg = dict(type='mmpapers.TFHEAD', student=student, **FEW, **more)
        elif more.get('akd', True) or more.get('ckd', True):
            cfg = dict(type='mmpapers.HEAD', student=student, teacher=teacher or tiny_pair('two_stage')[1],
                       checkpoint='random', **FEW, **more)
        else:
            cfg = dict(type='mmpapers.HEAD', student=student, teacher=teacher, checkpoint=teacher and 'random', **FEW,
                       roi_head=SMALL, **more)
        return _build(cfg)
    return build


@pytest.fixture
def step(tiny_pair: Callable) -> Callable[..., dict[str, Tensor]]:
    """Losses of one step at an iteration and epoch of a run of its own."""
    def run(model: nn.Module, iteration: int = 0, epoch: int = 0, seed: int = 0) -> dict[str, Tensor]:
        hub = MessageHub.get_instance(f'head-{id(model)}-{iteration}-{epoch}-{seed}')
        hub.update_info('iter', iteration)
        hub.update_info('epoch', epoch)
        hub.update_info('seed', seed)
        data = model.data_preprocessor(tiny_pair('dense')[2](), True)
        return model.loss(data['inputs'], data['data_samples'])
    return run


def _gradients(module: nn.Module) -> bool:
    return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def _watch(model: nn.Module, name: str) -> list:
    """Collect what a method of the model returns."""
    found, original = [], getattr(model, name)
    setattr(model, name, lambda *args: found.append(original(*args)) or found[-1])
    return found


def test_the_assistant_starts_as_the_teachers_head_and_stays_out_of_the_student(make: Callable,
                                                                               tiny_pair: Callable) -> None:
    model = make()
    assert isinstance(model, HEAD)
    model.init_weights()
    own, theirs = model.helpers['assistant'].bbox_head.state_dict(), model.teacher.model.roi_head.bbox_head.state_dict()
    assert list(own) == list(theirs) and all(torch.equal(own[name], theirs[name]) for name in own)
    assert all(parameter.requires_grad for parameter in model.helpers.parameters())
    plain = _build(tiny_pair('dense')[0])
    plain.load_state_dict(model.state_dict(), strict=True)
    plain.eval(), model.eval()
    batch = tiny_pair('dense')[2]
    with torch.no_grad():
        expected, found = (net(**net.data_preprocessor(batch(), False), mode='predict') for net in (plain, model))
    for one, other in zip(expected, found, strict=True):
        assert len(one.pred_instances) and torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
    fresh = make(transfer=False).helpers['assistant'].bbox_head.state_dict()
    assert not torch.equal(fresh['shared_fcs.0.weight'], theirs['shared_fcs.0.weight'])


def test_targets_are_a_direct_call_of_the_teachers_head(make: Callable) -> None:
    model = make()
    teacher = model.teacher.model
    rois = torch.tensor([[0., 3., 4., 30., 33.], [1., 10., 2., 60., 50.], [1., 0., 0., 9., 9.]])
    with torch.no_grad():
        levels = teacher.extract_feat(torch.randn(2, 3, 64, 64))
        head = teacher.roi_head
        rows = head.bbox_roi_extractor(levels[:head.bbox_roi_extractor.num_inputs], rois).flatten(1)
        expected = [F.relu(head.bbox_head.shared_fcs[0](rows))]
        expected.append(F.relu(head.bbox_head.shared_fcs[1](expected[0])))
    found = model.targets(list(levels), rois)
    assert len(found) == 2 and not any(rows.requires_grad for rows in found)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(expected, found))


def test_one_step_against_the_formulas(make: Callable, step: Callable) -> None:
    model = make()
    samples, targets = _watch(model, 'sample'), _watch(model, 'targets')
    seen, objective = [], model.objective
    model.objective = lambda values: seen.append(values) or objective(values)
    calls, forward = [], model.bbox_head.forward
    model.bbox_head.forward = lambda x: calls.append(1) or forward(x)
    losses = step(model, iteration=500)
    assert len(calls) == 1, 'the student\'s head runs once a step'
    sampled, target, tower = samples[0], targets[0], seen[0].student['tower']
    assert 0 < int(sampled.dense.sum()) < len(sampled.rois)
    rows = torch.stack([tower[level][image, :, y, x] for image, level, y, x, _ in
                        sampled.places[sampled.dense].tolist()])
    ckd = F.mse_loss(model.helpers['ckd'].layer(rows), target[1][sampled.dense])
    assert torch.isclose(losses['ckd_raw'], ckd)
    detail, hidden = model.helpers['assistant'](seen[0].student['features'], sampled)
    akd = sum(F.mse_loss(link.layer(own), other) for link, own, other in zip(model.helpers['akd'], hidden, target))
    assert torch.isclose(losses['akd_raw'], akd)
    assert torch.isclose(losses['loss_assist'], detail['loss_cls'] + detail['loss_bbox'])
    assert torch.isclose(losses['assist_cls'], detail['loss_cls']) and {'assist_bbox', 'assist_acc'} <= set(losses)
    assert torch.isclose(losses['loss_akd'], .5 * akd) and torch.isclose(losses['loss_ckd'], .5 * ckd)
    total, _ = model.parse_losses(losses)
    own = sum(sum(losses[name]) for name in ('loss_cls', 'loss_bbox'))
    assert torch.isclose(total, own + losses['loss_assist'] + losses['loss_akd'] + losses['loss_ckd'])


@pytest.mark.parametrize('iteration, weight', [(0, 0.), (500, .5), (1999, 1.999), (2000, 2.), (9000, 2.)])
def test_warm_up_reads_the_runs_counter(make: Callable, iteration: int, weight: float) -> None:
    model = make(weight=0)  # weights do not need a whole model
    MessageHub.get_instance(f'warm-{iteration}').update_info('iter', iteration)
    assert {name: value() for name, value in model.term_weights.items()} == pytest.approx(
        dict(assist=1., akd=weight, ckd=weight))


def test_no_rows_no_ckd(make: Callable, step: Callable) -> None:
    model = make()

    def only_truths(seen: Any) -> Sampled:
        sampled = HEAD.sample(model, seen)
        for result in sampled.results:
            keep = torch.arange(len(result.pos_inds)) < 1
            result.neg_priors = result.neg_priors[:0]
            result.pos_priors, result.pos_gt_bboxes = result.pos_priors[keep], result.pos_gt_bboxes[keep]
            result.pos_gt_labels, result.neg_inds = result.pos_gt_labels[keep], result.neg_inds[:0]
        places = torch.tensor([[0, -1, -1, -1, -1], [1, -1, -1, -1, -1]])
        rois = torch.cat([torch.tensor([[0.], [1.]]), torch.cat([r.pos_priors for r in sampled.results])], 1)
        return Sampled(sampled.results, rois, places)
    model.sample = only_truths
    losses = step(model, iteration=3000)
    assert float(losses['ckd_raw']) == 0. and float(losses['loss_ckd']) == 0.
    assert math.isfinite(float(losses['loss_akd'])) and float(losses['akd_raw']) > 0
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_akd_of_equal_models_is_0(make: Callable, step: Callable, tiny_pair: Callable) -> None:
    model = make(student=tiny_pair('dense')[1])  # as wide as the teacher
    model.backbone.load_state_dict(model.teacher.model.backbone.state_dict())
    model.neck.load_state_dict(model.teacher.model.neck.state_dict())
    for link in model.helpers['akd']:
        nn.init.eye_(link.layer.weight)
    model.eval()  # batch norm as in the teacher
    losses = step(model, iteration=3000)
    assert float(losses['akd_raw']) < 1e-10 < float(losses['ckd_raw'])


def test_gradients(make: Callable, step: Callable) -> None:
    model = make()
    for term, reached, spared in (('ckd', ('bbox_head.cls_convs', 'backbone'), ('distill_helpers.assistant',)),
                                  ('akd', ('distill_helpers.assistant', 'backbone'), ('bbox_head',))):
        model.zero_grad()
        step(model, iteration=3000)[f'loss_{term}'].backward()
        assert all(_gradients(model.get_submodule(path)) for path in reached), term
        assert not any(_gradients(model.get_submodule(path)) for path in spared), term
        assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_switches(make: Callable, step: Callable, tiny_pair: Callable) -> None:
    assist = make(akd=False, ckd=False)
    assert assist.teacher is None and set(assist.helpers) == {'connectors', 'assistant'}
    losses = step(assist)
    assert {name for name in losses if 'loss' in name} == {'loss_cls', 'loss_bbox', 'loss_assist'}
    plain, off = _build(tiny_pair('dense')[0]), make(assist=False, akd=False, ckd=False)
    off.load_state_dict(plain.state_dict(), strict=True)
    assert not list(off.helpers.parameters())
    expected, found = step(plain), step(off)
    assert list(expected) == list(found)
    assert all(torch.equal(torch.stack(expected[name]), torch.stack(found[name])) for name in expected)
    alone = make(assist=False, akd=False, term_weights=dict(akd=3., ckd=1.))
    assert {name: weight.value for name, weight in alone.term_weights.items()} == dict(ckd=1.)
    losses = step(alone, iteration=3000)
    assert set(alone.helpers) == {'connectors', 'ckd'} and float(losses['loss_ckd']) > 0
    started = make(akd=False, ckd=False, teacher=tiny_pair('two_stage')[1], transfer=False)
    assert started.teacher is None and 'assistant' in started.helpers


@pytest.mark.parametrize('kind', ['FCOS', 'ATSS', 'GFL'])
def test_other_students(make: Callable, step: Callable, tiny_pair: Callable, kind: str) -> None:
    student = tiny_pair('dense')[0]
    head = dict(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1, norm_cfg=dict(type='BN'))
    square = dict(anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.],
                                        strides=[8, 16, 32]))
    student['bbox_head'] = dict(type=f'{kind}Head', **head, **dict(
        FCOS=dict(strides=[8, 16, 32], regress_ranges=((-1, 32), (32, 64), (64, 1e8)), norm_on_bbox=True),
        ATSS=dict(square, loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss'),
                  reg_decoded_bbox=True, bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2])),
        GFL=dict(square, reg_max=8, loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
                 loss_dfl=dict(type='DistributionFocalLoss'), loss_bbox=dict(type='GIoULoss')))[kind])
    student['type'] = kind
    if kind != 'FCOS':
        student['train_cfg'] = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1)
    model = make(student=student)
    losses = step(model, iteration=3000)
    total, values = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total) and values['loss_ckd'] > 0 and values['loss_akd'] > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_cascade_teaches_with_one_stage(make: Callable, step: Callable, tiny_pair: Callable) -> None:
    teacher = tiny_pair('two_stage')[1]
    roi, rcnn = teacher['roi_head'], teacher['train_cfg'].pop('rcnn')
    teacher.update(type='CascadeRCNN', train_cfg=dict(teacher['train_cfg'], rcnn=[rcnn, rcnn]), roi_head=dict(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1., .5], bbox_roi_extractor=roi['bbox_roi_extractor'],
        bbox_head=[dict(roi['bbox_head'], reg_class_agnostic=True, fc_out_channels=width) for width in (16, 24)]))
    model = make(teacher=teacher, stage=1)
    assert model.helpers['assistant'].bbox_head.shared_fcs[0].out_features == 24
    assert float(step(model, iteration=3000)['loss_akd']) > 0


def test_tfhead_teaches_without_a_teacher(make: Callable, step: Callable) -> None:
    model = make(assistants=BOTH)
    assert isinstance(model, TFHEAD) and model.teacher is None
    names = set(step(model))
    assert {'assist0_cls', 'assist0_acc', 'assist1_centerness', 'loss_assist', 'loss_ckd'} <= names
    step(model, iteration=3000)['loss_ckd'].backward()
    assert _gradients(model.bbox_head.cls_convs) and _gradients(model.backbone)
    assert not _gradients(model.helpers['assistants'])
    model.zero_grad()
    step(model, iteration=3000)['loss_assist'].backward()
    assert all(_gradients(assistant) for assistant in model.helpers['assistants']) and _gradients(model.backbone)
    assert not _gradients(model.bbox_head)


def test_tfhead_against_the_formula(make: Callable, step: Callable) -> None:
    model = make(assistants=BOTH)
    samples, seen = _watch(model, 'sample'), []
    objective = model.objective
    model.objective = lambda values: seen.append(values) or objective(values)
    losses = step(model, iteration=1000)
    levels, tower, sampled = seen[0].student['features'], seen[0].student['tower'], samples[0]
    roi, fcos = model.helpers['assistants']
    rows, (link, conv) = roi(levels, sampled)[1][-1], model.helpers['ckd']
    expected = F.mse_loss(link.layer(sampled.gather(tower)), rows[sampled.dense])
    maps = [fcos.bbox_head.cls_convs[0](level) for level in levels]
    expected = expected + sum(F.mse_loss(conv.layer(own), other) for own, other in zip(tower, maps)) / 3
    assert torch.isclose(losses['ckd_raw'], expected, rtol=1e-4)
    assert torch.isclose(losses['loss_ckd'], losses['ckd_raw'])  # half of its warm-up of 2


@pytest.mark.parametrize('epoch, stop, on', [(7, 8, True), (8, 8, False), (11, None, True)])
def test_tfhead_stops_ckd(make: Callable, step: Callable, epoch: int, stop: int | None, on: bool) -> None:
    model = make(assistants=BOTH[:1], ckd_stop_epoch=stop)
    losses = step(model, iteration=5000, epoch=epoch)
    assert float(losses['ckd_weight']) == (2. if on else 0.) and float(losses['loss_assist']) > 0
    assert (float(losses['loss_ckd']) > 0) is on


def test_tfhead_without_ckd_or_boxes(make: Callable, step: Callable) -> None:
    model = make(assistants=BOTH[1:], ckd=False)
    assert set(model.helpers) == {'connectors', 'assistants'}
    assert 'loss_ckd' not in step(model)


def test_what_a_user_may_get_wrong(make: Callable, tiny_pair: Callable) -> None:
    student, teacher = tiny_pair('dense')[0], tiny_pair('two_stage')[1]
    with pytest.raises(DistillError, match='akd=False, ckd=False'):
        _build(dict(type='mmpapers.HEAD', student=student))
    with pytest.raises(DistillError, match='beside assist=False say akd=False'):
        make(assist=False)
    with pytest.raises(DistillError, match='RetinaNet has none. Take a Faster R-CNN with FPN'):
        make(teacher=tiny_pair('dense')[1])
    with pytest.raises(DistillError, match='transfer=False'):
        make(teacher=dict(teacher, roi_head=dict(teacher['roi_head'], bbox_head=dict(
            teacher['roi_head']['bbox_head'], num_classes=9))))
    with pytest.raises(DistillError, match='1 shared layers and the teacher 2'):
        make(transfer=False, roi_head=dict(bbox_head=dict(SMALL['bbox_head'], type='ConvFCBBoxHead', num_shared_fcs=1)))
    with pytest.raises(DistillError, match='term_weights'):
        make(term_weights=dict(cdk=1.))
    with pytest.raises(DistillError, match='two_stage'):
        make(student=tiny_pair('two_stage')[0])
    with pytest.raises(DistillError, match='its assistants teach'):
        _build(dict(type='mmpapers.TFHEAD', student=student, teacher=teacher, checkpoint='random'))
    with pytest.raises(DistillError, match='assistants is empty'):
        make(assistants=[])
