"""MasKD: the second stage on detectors and segmentors, with masks from a file, random ones and customised ones."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch.nn import functional as F

from mmpapers.distill import DistillError
from mmpapers.projects.maskd.learner import MaskLearner
from mmpapers.projects.maskd.maskd import MasKD, first_stage
from mmpapers.projects.maskd.masks import save_masks

pytestmark = pytest.mark.det


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> MessageHub:
    """A run of its own, at step 0."""
    hub = MessageHub.get_instance(f'maskd-{request.node.name}')
    hub.update_info('iter', 0)
    return hub


@pytest.fixture
def distiller(tiny_pair: Callable, hub: MessageHub) -> Callable[..., tuple[MasKD, Callable[[], dict]]]:
    """Make a distiller for a kind of model, and a function that gives preprocessed batches."""
    def make(kind: str = 'dense', **settings: Any) -> tuple[MasKD, Callable[[], dict]]:
        student, teacher, batch = tiny_pair(kind)
        init_default_scope(student['_scope_'])
        torch.manual_seed(0)
        settings = dict(teacher=teacher, checkpoint='random', masks='random') | settings
        model = MODELS.build(dict(type='mmpapers.MasKD', student=student) | settings)
        return model.train(), lambda: model.data_preprocessor(batch(), True)
    return make


def _seen(model: MasKD, data: dict) -> tuple[Any, dict]:
    """What the objective was given, and its terms."""
    kept, objective = {}, model.objective

    def keep(seen: Any) -> dict:
        kept.update(seen=seen, terms=objective(seen))
        return kept['terms']
    model.objective = keep
    model.loss(*data.values())
    del model.objective
    return kept['seen'], kept['terms']


@pytest.mark.parametrize(('kind', 'weights'), [
    ('dense', dict(maskd=7., boxes=1.)), ('two_stage', dict(maskd=1., boxes=1.)),
    ('segmentor', dict(maskd=1., auxiliary=0.4)), ('voxel', dict(maskd=1., boxes=1.))])
def test_terms_of_each_kind(distiller: Callable, kind: str, weights: dict) -> None:
    model, data = distiller(kind)
    total, terms = model.parse_losses(model(**data(), mode='loss'))
    total.backward()
    assert {name: terms[f'{name}_weight'].item() for name in model.weights} == pytest.approx(weights)
    for name, weight in weights.items():
        assert terms[f'{name}_raw'] > 0
        assert terms[f'loss_{name}'].item() == pytest.approx(weight * terms[f'{name}_raw'].item(), rel=1e-5)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.helpers['maskd'].parameters())


def test_every_level_passes_a_convolution_even_where_widths_agree(distiller: Callable, tiny_pair: Callable) -> None:
    student, _, _ = tiny_pair('dense')
    model, _ = distiller(teacher=student)
    assert [tuple(link.layer.weight.shape) for link in model.helpers['connectors']['features']] == [(8, 8, 1, 1)] * 3


def test_detectors_compare_aligned_levels_under_masks_and_boxes_as_they_are(distiller: Callable) -> None:
    model, data = distiller(boxes_beta=0.)
    seen, terms = _seen(model, data())
    loss, expected = model.helpers['maskd'], 0.
    for mask, link, student, teacher in zip(loss.masks, model.helpers['connectors']['features'],
                                            seen.student['features'], seen.teacher['features']):
        masks, error = mask(teacher), (link.layer(student) - teacher)**2
        per_token = torch.einsum('nthw,nchw->ntc', masks**2, error) / (masks.sum((2, 3)) + 1e-6)[..., None]
        expected = expected + (per_token.mean(2) * mask.weights(teacher)).sum(1).mean()
    torch.testing.assert_close(terms['maskd'], expected)
    boxes = sum(F.l1_loss(*pair) for pair in zip(seen.student['boxes'], seen.teacher['boxes']))
    torch.testing.assert_close(terms['boxes'], boxes)


def test_two_stage_boxes_are_those_of_the_students_rois(distiller: Callable) -> None:
    model, data = distiller('two_stage')
    seen, terms = _seen(model, data())
    (student, ), (teacher, ) = seen.student['boxes'], seen.teacher['boxes']
    assert student.shape == teacher.shape == (len(seen.boxes), 8)
    torch.testing.assert_close(terms['boxes'], F.smooth_l1_loss(student, teacher))


def test_segmentors_compare_logits_with_one_set_of_masks(distiller: Callable) -> None:
    model, data = distiller('segmentor')
    loss = model.helpers['maskd']
    assert (len(loss.masks), loss.masks[0].tokens.shape, loss.eps, loss.factor) == (1, (8, 3), 1e-5, 0.5)
    assert not model.custom_masks
    seen, terms = _seen(model, data())
    for term, role in (('maskd', 'logits'), ('auxiliary', 'auxiliary')):
        (student, ), (teacher, ) = seen.student[role], seen.teacher[role]
        torch.testing.assert_close(terms[term], loss([student], [F.interpolate(teacher, student.shape[2:])]))


def test_masks_are_customised_from_the_iteration_that_ends_the_warm_up(distiller: Callable, hub: MessageHub) -> None:
    model, data = distiller(custom_mask_warmup=3)
    inputs, values = data(), []
    for step in range(5):
        hub.update_info('iter', step)
        values.append(_seen(model, inputs)[1]['maskd'].item())
    assert values[0] == pytest.approx(values[1], rel=1e-5) == values[2]
    assert values[3] == pytest.approx(values[4], rel=1e-5)
    assert values[3] < 0.9 * values[0]
    resumed, _ = distiller(custom_mask_warmup=3)  # knows the step from the run's hub alone
    assert _seen(resumed, inputs)[1]['maskd'].item() == pytest.approx(values[4], rel=1e-5)
    never, _ = distiller(custom_mask_warmup=3, custom_masks=False)
    assert _seen(never, inputs)[1]['maskd'].item() == pytest.approx(values[0], rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(distiller: Callable, hub: MessageHub) -> None:
    _, data = distiller()
    twin = MODELS.build(_plain(distiller))
    model, _ = distiller(student=twin, teacher=copy.deepcopy(twin), checkpoint=None, connector='identity',
                         custom_mask_warmup=1)
    model.eval()
    for step in range(2):
        hub.update_info('iter', step)
        _, terms = _seen(model, data())
        assert {name: term.item() for name, term in terms.items()} == dict(maskd=0., boxes=0.)


def _plain(distiller: Callable) -> dict:
    return distiller()[0].student_cfg


def test_masks_come_from_a_file(distiller: Callable, tiny_pair: Callable, tmp_path: Path) -> None:
    _, teacher, _ = tiny_pair('dense')
    init_default_scope('mmdet')
    torch.manual_seed(7)
    trained = MODELS.build(teacher)
    learner = MaskLearner(trained)
    save_masks(learner.masks, trained, tmp_path / 'masks.pth')
    model, _ = distiller(teacher=trained, checkpoint=None, masks=str(tmp_path / 'masks.pth'))
    for ours, theirs in zip(model.helpers['maskd'].masks.parameters(), learner.masks.parameters()):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    with pytest.raises(DistillError, match='learned on another teacher'):
        distiller(masks=str(tmp_path / 'masks.pth'))
    with pytest.raises(DistillError, match='set num_tokens=6'):
        distiller(teacher=trained, checkpoint=None, masks=str(tmp_path / 'masks.pth'), num_tokens=5)
    with pytest.raises(DistillError, match='does not exist'):
        distiller(masks=str(tmp_path / 'other.pth'))
    with pytest.raises(DistillError, match='holds masks of 3 levels and the teacher gives 2'):
        distiller(teacher=trained, checkpoint=None, masks=str(tmp_path / 'masks.pth'), taps=dict(features='neck[:2]'))


def test_errors(distiller: Callable) -> None:
    model, data = distiller(masks='learn')
    with pytest.raises(DistillError, match='nobody learned them: add .*mmpapers.LearnMasksHook'):
        model.loss(*data().values())
    with pytest.raises(DistillError, match='give any of iters, optimizer, schedule, file, pictures'):
        distiller(masks=dict(steps=3))
    with pytest.raises(DistillError, match="weight to 'boxes_initial', which is tapped nowhere"):
        distiller(term_weights=dict(boxes_initial=0.1))
    with pytest.raises(DistillError, match='MasKD masks maps'):
        distiller('two_stage', taps=dict(features='roi_head.bbox_head.shared_fcs.0'))


def test_two_box_branches_with_their_own_weights(distiller: Callable) -> None:
    model, data = distiller(taps=dict(boxes='bbox_head.retina_reg', boxes_initial='bbox_head.retina_cls'),
                            term_weights=dict(boxes=0.2, boxes_initial=0.1))
    terms = model(**data(), mode='loss')
    assert terms['boxes_initial_weight'].item() == pytest.approx(0.1)
    assert terms['boxes_initial_raw'] > 0


def test_the_first_stage_of_a_config() -> None:
    cfg = Config.fromfile('projects/maskd/configs/maskd_retinanet_tiny-cpu.py')
    model = first_stage(copy.deepcopy(cfg), 'masks.pth')
    assert (model['type'], model['masks'], model['checkpoint']) == ('mmpapers.MaskLearner', 'masks.pth', 'random')
    assert model['teacher']['type'] == 'RetinaNet'
    with pytest.raises(DistillError, match='which masks'):
        first_stage(copy.deepcopy(cfg))
    with pytest.raises(DistillError, match='is neither'):
        first_stage(Config(dict(model=dict(type='RetinaNet'))))
