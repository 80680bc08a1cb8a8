"""The distiller DIST on every family: what it compares, its terms, options, configs and errors."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F

from mmpapers.distill import DistillError, Seen
from mmpapers.distill.overlay import expand
from mmpapers.projects.dist.dist import DIST
from mmpapers.projects.dist.loss import DISTLoss

pytestmark = pytest.mark.det
CONFIGS = Path(__file__).parents[3] / 'projects/dist/configs'


def build(tiny_pair: Callable, kind: str, **settings: Any) -> tuple[DIST, dict]:
    """A distiller in training mode and a batch."""
    student, teacher, batch = tiny_pair(kind)
    init_default_scope(student['_scope_'])
    return DIST(student=student, teacher=teacher, checkpoint='random', **settings).train(), batch()


def step(model: DIST, batch: dict) -> tuple[dict[str, Any], Seen]:
    """The losses of a step, and what the objective saw."""
    caught, objective = [], model.objective
    model.objective = lambda seen: caught.append(seen) or objective(seen)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    return losses, caught[0]


@pytest.mark.parametrize(('kind', 'levels'), [('dense', 3), ('voxel', 1)])
def test_dense_heads_sum_the_sigmoid_loss_over_levels(tiny_pair: Callable, kind: str, levels: int) -> None:
    losses, seen = step(*build(tiny_pair, kind))
    assert len(seen.student['logits']) == levels and set(seen.student) == {'logits'}
    loss = DISTLoss(activation='sigmoid')
    expected = sum(loss(s, t) for s, t in zip(seen.student['logits'], seen.teacher['logits']))
    torch.testing.assert_close(losses['loss_dist'], expected)
    assert losses['dist_weight'] == 1 and losses['loss_dist'].requires_grad


def test_two_stage_heads_score_the_same_boxes(tiny_pair: Callable) -> None:
    losses, seen = step(*build(tiny_pair, 'two_stage'))
    (student,), (teacher,) = seen.student['logits'], seen.teacher['logits']
    assert student.shape == teacher.shape == (len(seen.boxes), 3)  # two classes and background
    torch.testing.assert_close(losses['loss_dist'], DISTLoss()(student, teacher))


def test_the_first_stage_of_a_cascade_teaches_a_two_stage_student(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('two_stage')
    head, rcnn = teacher['roi_head'], teacher['train_cfg']['rcnn']
    head.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, .5],
                bbox_head=[dict(head['bbox_head'], reg_class_agnostic=True) for _ in range(2)])
    teacher.update(type='CascadeRCNN', train_cfg=dict(teacher['train_cfg'], rcnn=[rcnn, rcnn]))
    init_default_scope('mmdet')
    model = DIST(student=student, teacher=teacher, checkpoint='random', mimic=1.).train()
    assert model.taps_of['teacher']['logits'] == 'roi_head.bbox_head.0.fc_cls'
    losses, seen = step(model, batch())
    features = model.teacher.model.extract_feat(seen.inputs)
    first = model.teacher.model.roi_head._bbox_forward(0, features, seen.boxes)['cls_score']
    torch.testing.assert_close(seen.teacher['logits'][0], first)
    assert losses['loss_dist'] > 0 and losses['loss_mimic'] > 0


def test_segmentors_add_the_auxiliary_head(tiny_pair: Callable) -> None:
    losses, seen = step(*build(tiny_pair, 'segmentor'))
    for term, role, weight in (('dist', 'logits', 1.), ('dist_auxiliary', 'auxiliary', .4)):
        (student,), (teacher,) = seen.student[role], seen.teacher[role]
        assert student.shape[1] == 3
        torch.testing.assert_close(losses[f'loss_{term}'], weight * DISTLoss()(student, teacher))


def test_without_an_auxiliary_head_there_is_no_such_term(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('segmentor')
    del student['auxiliary_head']
    init_default_scope('mmseg')
    model = DIST(student=student, teacher=teacher, checkpoint='random').train()
    losses, _ = step(model, batch())
    assert set(model.weights) == set(model.term_weights) == {'dist'}
    assert not [name for name in losses if 'auxiliary' in name]


def test_mimic_compares_the_neck_after_a_convolution(tiny_pair: Callable) -> None:
    model, batch = build(tiny_pair, 'dense', mimic=2.)
    losses, seen = step(model, batch)
    links = model.helpers['connectors']['features']
    assert [type(link.layer) for link in links] == [nn.Conv2d] * 3
    expected = sum(F.mse_loss(link.layer(s), t) for link, s, t in
                   zip(links, seen.student['features'], seen.teacher['features']))
    torch.testing.assert_close(losses['loss_mimic'], 2 * expected)
    losses['loss_mimic'].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in links.parameters())


def test_a_teacher_equal_to_the_student_gives_zero(tiny_pair: Callable) -> None:
    cfg, _, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    student = MODELS.build(cfg)
    nn.init.normal_(student.bbox_head.retina_cls.weight, std=.5)  # a fresh head's scores hardly differ, and eps counts
    model = DIST(student=student, teacher=copy.deepcopy(student)).eval()  # in training batch statistics would differ
    losses, _ = step(model, batch())
    assert losses['loss_dist'].item() == pytest.approx(0, abs=1e-5)


def test_settings_of_the_loss_are_handed_on(tiny_pair: Callable) -> None:
    model, batch = build(tiny_pair, 'dense', loss=dict(num_anchors=3, beta=2.), term_weights=dict(dist=.5))
    losses, seen = step(model, batch)
    loss = DISTLoss(num_anchors=3, beta=2., activation='sigmoid')
    expected = sum(loss(s, t) for s, t in zip(seen.student['logits'], seen.teacher['logits']))
    torch.testing.assert_close(losses['loss_dist'], .5 * expected)


def test_pixels_without_label_can_be_left_out(tiny_pair: Callable) -> None:
    model, batch = build(tiny_pair, 'segmentor', valid='labels')
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[..., :32] = 255
    losses, seen = step(model, batch)
    (student,), (teacher,) = seen.student['logits'], seen.teacher['logits']
    kept = [maps[..., maps.shape[-1] // 2:] for maps in (student, teacher)]
    torch.testing.assert_close(losses['loss_dist'], DISTLoss()(*kept))


def test_positions_without_object_can_be_left_out(tiny_pair: Callable) -> None:
    model, batch = build(tiny_pair, 'dense')
    _, seen = step(model, batch)
    bound = float(seen.teacher['logits'][0].sigmoid().amax(1).median())
    model.valid = bound
    found = model.objective(seen)['dist']
    expected = 0
    for student, teacher in zip(seen.student['logits'], seen.teacher['logits']):
        rows = [maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (student, teacher)]
        keep = rows[1].sigmoid().amax(1) > bound
        expected = expected + (DISTLoss(activation='sigmoid')(rows[0][keep], rows[1][keep]) if keep.any() else 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(('kind', 'valid'), [('dense', 'labels'), ('segmentor', .1), ('two_stage', .1),
                                             ('segmentor', 'foreground')])
def test_valid_must_suit_the_student(tiny_pair: Callable, kind: str, valid: str | float) -> None:
    with pytest.raises(DistillError, match=f"distill.valid={valid!r}: write 'labels' for a segmentor, or for a dense"):
        build(tiny_pair, kind, valid=valid, weight=0)


def test_classes_must_agree(tiny_pair: Callable) -> None:
    student, teacher, _ = tiny_pair('segmentor')
    teacher['decode_head']['num_classes'] = 7
    init_default_scope('mmseg')
    with pytest.raises(DistillError, match='taps.logits, tensor 0: the student has 3 channels and the teacher 7'):
        DIST(student=student, teacher=teacher, checkpoint='random')


@pytest.mark.parametrize('config', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_configs_expand_to_students_and_teachers_of_equal_classes(config: Path) -> None:
    cfg = Config.fromfile(config)
    assert expand(cfg)
    assert cfg.model.type == 'mmpapers.DIST' and cfg.model.checkpoint

    def classes(model: Config) -> set[int]:
        heads = [model.get('bbox_head') or model.get('decode_head') or model.roi_head.bbox_head]
        heads = heads[0] if isinstance(heads[0], list) else heads
        return {head.num_classes for head in heads}
    assert classes(cfg.model.student) == classes(cfg.model.teacher)
    assert cfg.model.get('mimic', 0) == (1 if 'mimic' in config.stem or 'tiny' in config.stem else 0)
