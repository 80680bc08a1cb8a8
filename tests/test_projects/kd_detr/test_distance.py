"""The distance at shared points and the matched baseline: recorded numbers, mmdet's KL and plain loops."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.losses.kd_loss import knowledge_distillation_kl_div_loss
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmpapers.projects.kd_detr.kd_detr import KDDETR

pytestmark = pytest.mark.det
PARITY = np.load(Path(__file__).parents[2] / 'data/parity/kd_detr.npz')


@pytest.fixture
def model(tiny_detr: Callable) -> Callable[..., KDDETR]:
    """A distilled student with some settings."""
    return lambda **settings: KDDETR(tiny_detr('dab'), tiny_detr('dab', 1), **settings)


def outputs(layers: int, count: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Scores (layers, 2, count, classes) and boxes (layers, 2, count, 4)."""
    scores, places = 2 * torch.randn(layers, 2, count, classes), .4 * torch.rand(layers, 2, count, 4)
    return scores, places + torch.tensor([.3, .3, .1, .1])


def giou(one: list[float], other: list[float]) -> float:
    """Generalised IoU of two boxes (cx, cy, w, h), written out."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one, other
    across = max(0., min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2))
    down = max(0., min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2))
    union = aw * ah + bw * bh - across * down
    hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (
        max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2))
    return across * down / union - (hull - union) / hull


@pytest.mark.parametrize('points', ['specific', 'general'])
def test_recorded_numbers_of_the_release(points: str, model: Callable) -> None:
    found = model()
    scores, boxes, *teacher = (torch.from_numpy(PARITY[f'{points}_{name}']) for name in (
        'scores', 'boxes', 'teacher_scores', 'teacher_boxes'))
    scores.requires_grad_(), boxes.requires_grad_()
    for part, term in found.distance(scores, boxes, *teacher).items():
        name = dict(iou='giou').get(part, part)
        torch.testing.assert_close(term, torch.from_numpy(PARITY[f'{points}_{name}']), rtol=1e-5, atol=0)
        source = scores if part == 'cls' else boxes
        gradient, = torch.autograd.grad(term, source, retain_graph=True)
        torch.testing.assert_close(gradient, torch.from_numpy(PARITY[f'{points}_{name}_gradient']), rtol=1e-4,
                                   atol=1e-5)
    for part, name in (('cls', 'cls'), ('bbox', 'bbox'), ('iou', 'giou')):
        kind = dict(specific='auxrf', general='randomrf')[points]
        assert found.weights[f'{points}_{part}'] == PARITY[f'loss_kd_{kind}_{name}']


def test_class_term_is_mmdets_distillation_loss(model: Callable) -> None:
    (scores, boxes), (theirs, places) = outputs(3, 6), outputs(1, 6)
    found = model().distance(scores, boxes, theirs[0], places[0])['cls']
    weight = theirs[0].sigmoid().amax(-1).flatten()
    expected = sum(knowledge_distillation_kl_div_loss(
        layer.flatten(0, 1), theirs[0].flatten(0, 1), weight=weight, T=10, reduction='sum') for layer in scores)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('classes', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('avg_factor', ['none', 'weights', 'points'])
def test_equals_plain_loops(classes: str, avg_factor: str, model: Callable) -> None:
    (scores, boxes), (theirs, places) = outputs(2, 4), outputs(1, 4)
    found = model(classes=classes, avg_factor=avg_factor, temperature=3.).distance(
        scores, boxes, theirs[0], places[0])
    expected = dict(cls=0., bbox=0., iou=0.)

    def probabilities(logits: list[float]) -> list[list[float]]:
        if classes == 'softmax':
            total = sum(math.exp(logit / 3) for logit in logits)
            return [[math.exp(logit / 3) / total] for logit in logits]
        positive = [1 / (1 + math.exp(-logit / 3)) for logit in logits]
        return [[value, 1 - value] for value in positive]

    for layer in range(2):
        kl = l1 = iou = total = 0.
        for image, point in itertools.product(range(2), range(4)):
            logits = theirs[0, image, point].tolist()
            weight = max(1 / (1 + math.exp(-logit)) for logit in logits)
            pairs = zip(probabilities(scores[layer, image, point].tolist()), probabilities(logits))
            kl += weight * 9 * sum(t * math.log(t / s) for own, other in pairs for s, t in zip(own, other)) / 5
            own, other = boxes[layer, image, point].tolist(), places[0, image, point].tolist()
            l1 += weight * sum(abs(a - b) for a, b in zip(own, other)) / 4
            iou += weight * (1 - giou(own, other))
            total += weight
        expected['cls'] += kl / dict(none=1, weights=total, points=8)[avg_factor]
        expected['bbox'] += l1 / total
        expected['iou'] += iou / total
    for part, value in expected.items():
        assert float(found[part]) == pytest.approx(value, rel=1e-4), part


def test_points_without_confidence_contribute_nothing(model: Callable) -> None:
    found = model()
    (scores, boxes), (theirs, places) = outputs(2, 6), outputs(1, 6)
    theirs[:, :, 4:] = -200.  # a sigmoid of 0
    some = found.distance(scores, boxes, theirs[0], places[0])
    for part, value in found.distance(scores[:, :, :4], boxes[:, :, :4], theirs[0, :, :4], places[0, :, :4]).items():
        torch.testing.assert_close(some[part], value)
    scores.requires_grad_(), boxes.requires_grad_()
    for avg_factor in ('none', 'weights', 'points'):
        found.avg_factor = avg_factor
        terms = found.distance(scores, boxes, torch.full_like(theirs[0], -200.), places[0])
        assert all(float(term) == 0 for term in terms.values())
        gradients = torch.autograd.grad(sum(terms.values()), [scores, boxes])
        assert not any(bool(gradient.any()) or bool(gradient.isnan().any()) for gradient in gradients)


def test_tiny_boxes_and_no_points(model: Callable) -> None:
    found = model(avg_factor='points')
    scores, boxes = outputs(2, 6)
    boxes[..., 2:] = 5e-4  # half a pixel of 1000
    same = found.distance(scores, boxes, scores, boxes)
    assert all(abs(float(term)) < 1e-5 for term in same.values())
    none = found.distance(scores[:, :, :0], boxes[:, :, :0], scores[:, :, :0], boxes[:, :, :0])
    assert all(float(term) == 0 for term in none.values())


def test_foreground_of_softmax_heads_leaves_background_out(model: Callable) -> None:
    found = model()
    scores = torch.tensor([[[0., 2., 5.], [1., 0., 0.]]])
    torch.testing.assert_close(found.foreground(scores), scores.sigmoid().amax(-1))
    found.teacher.model.bbox_head.loss_cls.use_sigmoid = False
    torch.testing.assert_close(found.foreground(scores)[0], torch.stack([scores.softmax(-1)[0, 0, 1],
                                                                         scores.softmax(-1)[0, 1, 0]]))


@pytest.mark.parametrize(('own', 'theirs'), [(6, 4), (4, 6), (5, 5)])
def test_matched_pairs_equal_a_loop(own: int, theirs: int, model: Callable) -> None:
    student, teacher = outputs(3, own), [value[0] for value in outputs(1, theirs)]
    found = model(points='matched')._match(student, teacher)
    for layer, image in itertools.product(range(3), range(2)):
        cost = np.zeros((own, theirs))
        for i, j in itertools.product(range(own), range(theirs)):
            target = teacher[0][image, j].softmax(0)
            box, other = student[1][layer, image, i], teacher[1][image, j]
            cost[i, j] = (-2 * float((target * student[0][layer, image, i].log_softmax(0)).sum())
                          + 5 * float((box - other).abs().sum()) - 2 * giou(box.tolist(), other.tolist()))
        rows, columns = linear_sum_assignment(cost)
        for value, source in zip(found[0], student):
            assert torch.equal(value[layer, image], source[layer, image, rows])
        for value, source in zip(found[1], teacher):
            assert torch.equal(value[layer, image], source[image, columns])
