"""KDDETR on whole detectors: shared points in training, what they leave alone, and what it refuses."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmpapers.distill import DistillError
from mmpapers.projects.kd_detr import kd_detr
from mmpapers.projects.kd_detr.kd_detr import KDDETR

pytestmark = pytest.mark.det
KINDS = ('dab', 'deformable', 'two_stage', 'dino')


@pytest.fixture
def step(tiny_pair: Callable) -> Callable[..., dict[str, Tensor]]:
    """One training step at an iteration of a run; batch norm keeps its statistics, so that models are comparable."""
    hub = MessageHub.get_instance('kd-detr')

    def losses(model: nn.Module, iteration: int = 0) -> dict[str, Tensor]:
        hub.update_info('iter', iteration)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(0)  # of denoising queries
        return model(**model.data_preprocessor(tiny_pair('query')[2](), True), mode='loss')
    return losses


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[nn.Module, dict[str, Tensor], Any]]]:
    """Models, the points that they were given, and what they decoded."""
    seen, own = [], kd_detr.decoding

    def spy(model: nn.Module, points: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        seen.append((model, points, kwargs['into']))
        return own(model, points, *args, **kwargs)
    monkeypatch.setattr(kd_detr, 'decoding', spy)
    return seen


@pytest.mark.parametrize('kind', KINDS)
def test_a_copy_of_the_teacher_has_nothing_to_learn(kind: str, tiny_detr: Callable, step: Callable) -> None:
    teacher = tiny_detr(kind)
    points = ('general', 'specific') if kind == 'dab' else ('general',)  # others begin in contents of their own
    model = KDDETR(copy.deepcopy(teacher), teacher, points=points, num_general=20)
    distance, seen = model.distance, []
    model.distance = lambda *outputs: seen.append(outputs) or distance(*outputs)
    losses = step(model)
    assert len(seen) == len(points)
    for scores, boxes, *theirs in seen:
        terms = distance(scores[-1:], boxes[-1:], *theirs)  # earlier layers are supervised by the teacher's last one
        assert abs(terms['cls']) < 1e-5
        assert terms['bbox'] < 1e-6
        assert abs(terms['iou']) < 1e-5
    assert losses['general_bbox_raw'] > 1e-4


@pytest.mark.parametrize('attention', ['fold', 'mask'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_students_own_losses_do_not_change(kind: str, attention: str, tiny_detr: Callable, step: Callable) -> None:
    expected = step(tiny_detr(kind))
    model = KDDETR(tiny_detr(kind), tiny_detr(kind, 1), num_general=11, attention=attention)
    losses = step(model)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    added = {f'loss_{term}' for term in model.weights}
    assert added == {f'loss_{points}_{part}' for points in ('general', 'specific') for part in ('cls', 'bbox', 'iou')}
    sum(losses[name] for name in added).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.decoder.parameters()
               if parameter.grad is not None)
    assert model.decoder.layers[0].self_attn.__dict__.get('forward') is None
    for module in (model, model.teacher.model):
        assert 'forward_decoder' not in module.__dict__
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_each_kind_of_points_is_alone(tiny_detr: Callable, step: Callable) -> None:
    both = step(KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), num_general=9))
    for points in ('general', 'specific'):
        alone = step(KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), points=points, num_general=9))
        for part in ('cls', 'bbox', 'iou'):
            torch.testing.assert_close(alone[f'{points}_{part}_raw'], both[f'{points}_{part}_raw'], rtol=1e-5,
                                       atol=1e-5)


def test_points_are_shared_and_drawn_anew(tiny_detr: Callable, step: Callable, spied: list) -> None:
    model = KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), num_general=9)
    drawn = []
    for iteration in (0, 1, 0):
        spied.clear()
        step(model, iteration)
        (one, theirs, _), (other, ours, decoded) = spied
        assert (one, other) == (model.teacher.model, model)
        assert theirs['general'] is ours['general']
        assert ours['general'].shape == (9, 4)
        assert set(theirs) == {'general'}
        anchors = model.teacher.model.query_embedding.weight.sigmoid()
        torch.testing.assert_close(ours['specific'], anchors.expand(2, -1, -1))
        assert not ours['general'].requires_grad
        assert not ours['specific'].requires_grad
        assert decoded.outputs['specific'][0].requires_grad
        drawn.append(ours['general'])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    resumed = KDDETR(tiny_detr('dab', 2), tiny_detr('dab', 1), num_general=9)
    spied.clear()
    step(resumed, 1)
    assert torch.equal(spied[1][1]['general'], drawn[1])


def test_specific_points_of_centres_are_the_teachers_boxes(tiny_detr: Callable, step: Callable, spied: list) -> None:
    teacher = tiny_detr('deformable', 1)
    step(KDDETR(tiny_detr('dab'), teacher, points='specific'))  # over families, too
    (_, theirs, decoded), (_, ours, _) = spied
    assert not theirs
    assert decoded.anchors is None
    assert ours['specific'].shape == (2, teacher.num_queries, 4)
    assert not ours['specific'].requires_grad
    assert 0 < ours['specific'].amin() < ours['specific'].amax() < 1


def test_draws(tiny_detr: Callable) -> None:
    teacher = tiny_detr('dab', 1)
    uniform = KDDETR(tiny_detr('dab'), teacher, distribution='uniform', num_general=4000).draw()
    assert 0 <= uniform.amin() < uniform.amax() <= 1
    torch.testing.assert_close(uniform.mean(0), torch.full((4,), .5), rtol=0, atol=.03)
    torch.testing.assert_close(uniform.std(0), torch.full((4,), 12**-.5), rtol=0, atol=.02)
    normal = torch.special.logit(KDDETR(tiny_detr('dab'), teacher, num_general=4000).draw().double())
    torch.testing.assert_close(normal.mean(0), torch.zeros(4).double(), rtol=0, atol=.08)
    torch.testing.assert_close(normal.std(0), torch.ones(4).double(), rtol=0, atol=.06)


@pytest.mark.parametrize('kind', ['dab', 'dino', 'conditional'])
def test_matched_needs_no_shared_points(kind: str, tiny_detr: Callable, step: Callable, spied: list) -> None:
    expected = step(tiny_detr(kind))
    model = KDDETR(tiny_detr(kind), tiny_detr(kind, 1, num_queries=7), points='matched')
    losses = step(model)
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    assert [points for _, points, _ in spied] == [{}, {}]
    assert all(losses[f'loss_matched_{part}'] > 0 for part in ('cls', 'bbox', 'iou'))
    sum(losses[f'loss_matched_{part}'] for part in ('cls', 'bbox', 'iou')).backward()
    assert next(model.encoder.parameters()).grad.any()


def test_a_larger_teacher_from_configs(tiny_pair: Callable, step: Callable) -> None:
    student, teacher, _ = tiny_pair('query')  # 2 and 3 decoder layers, 10 and 14 queries, 16 and 32 channels
    init_default_scope('mmdet')
    model = MODELS.build(Config(dict(model=dict(
        type='mmpapers.KDDETR', student=student, teacher=teacher, checkpoint='random', num_general=5))).model)
    assert model.taps_of == dict.fromkeys(('student', 'teacher'), dict(outputs='bbox_head'))
    model.init_weights()
    losses = step(model)
    assert all(bool(torch.isfinite(torch.as_tensor(losses[f'loss_{term}']))) for term in model.weights)
    ratio = {term: float(losses[f'loss_{term}'].detach() / losses[f'{term}_raw']) for term in model.weights
             if losses[f'{term}_raw'] > 0}
    for term, value in ratio.items():
        assert value == pytest.approx(dict(cls=1, bbox=5, iou=2)[term.rpartition('_')[2]])
    assert {'general_cls', 'specific_cls'} <= set(ratio)


def test_nothing_of_a_step_stays_on_the_student(tiny_detr: Callable, step: Callable) -> None:
    model = KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), num_general=5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = step(model)
    for term in model.weights:
        assert losses[f'loss_{term}'].dtype == torch.float32
    twin = copy.deepcopy(model)  # tensors with a graph cannot be copied
    assert twin.teacher is model.teacher
    assert step(twin)['general_cls_raw'] > 0


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(points='both'), r"distill.points='both'; choose from general, specific, matched"),
    (dict(points=()), r'distill.points=\(\)'),
    (dict(distribution='normal'), r"distill.distribution='normal'; choose from logit_normal, uniform"),
    (dict(classes='focal'), r"distill.classes='focal'; choose from softmax, sigmoid"),
    (dict(avg_factor='mean'), r"distill.avg_factor='mean'; choose from none, weights, points"),
    (dict(attention='block'), r"distill.attention='block'; choose from fold, mask"),
    (dict(num_general=0), r'distill.num_general=0 must be 1 or more'),
    (dict(temperature=0.), r'distill.temperature=0.0 must be positive'),
    (dict(term_weights=dict(matched_cls=1.)), r"term_weights names 'matched_cls'.*general_cls"),
])
def test_wrong_settings(settings: dict, message: str, tiny_detr: Callable) -> None:
    with pytest.raises(DistillError, match=message):
        KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), **settings)


def test_pairs_that_cannot_be_compared(tiny_detr: Callable, tiny_pair: Callable) -> None:
    def one_class(seed: int) -> nn.Module:
        model = tiny_detr('dab', seed)
        model.bbox_head.fc_cls = nn.Linear(16, 1)
        return model

    with pytest.raises(DistillError, match='the student has 1 class outputs and the teacher 2; .* the same classes'):
        KDDETR(one_class(0), tiny_detr('dab', 1))
    with pytest.raises(DistillError, match="with a single class .* set distill.classes='sigmoid'"):
        KDDETR(one_class(0), one_class(1))
    with pytest.raises(DistillError, match="the student cannot decode given boxes; .*'matched' works without"):
        KDDETR(tiny_detr('conditional'), tiny_detr('dab', 1))
    with pytest.raises(DistillError, match='the teacher cannot decode given boxes'):
        KDDETR(tiny_detr('dab'), tiny_detr('conditional', 1))
    KDDETR(tiny_detr('dab'), tiny_detr('conditional', 1), points='specific')  # asks the student alone
    dense = tiny_pair('dense')[1]
    with pytest.raises(DistillError, match='the teacher is no DETR that KD-DETR knows'):
        KDDETR(tiny_detr('dab'), dense, checkpoint='random', points='specific')


def test_single_class_with_sigmoid(tiny_detr: Callable, step: Callable) -> None:
    models = [tiny_detr('dab', seed, bbox_head=dict(
        type='DABDETRHead', num_classes=1, embed_dims=16, loss_cls=dict(type='FocalLoss', use_sigmoid=True)))
        for seed in (0, 1)]
    model = KDDETR(*models, classes='sigmoid', points=('general', 'specific', 'matched'), num_general=5)
    preprocess = model.data_preprocessor.forward

    def one_class(*args: Any) -> dict:
        batch = preprocess(*args)
        for sample in batch['data_samples']:
            sample.gt_instances.labels.zero_()
        return batch
    model.data_preprocessor.forward = one_class
    losses = step(model)
    assert all(losses[f'{points}_cls_raw'] > 0 for points in model.points)
