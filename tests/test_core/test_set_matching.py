"""Batched matching: mmdet's assignments and losses to the last bit, with one transfer to the CPU."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.dense_heads import ConditionalDETRHead, DABDETRHead, DeformableDETRHead, DETRHead, DINOHead
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers.layers import set_matching
from mmpapers.layers.set_matching import BatchedMatchingHead, match

pytestmark = pytest.mark.core
CLASSES, LAYERS, QUERIES, SIZE = 4, 3, 12, (60, 90)
COSTS = [dict(type='FocalLossCost', weight=2.), dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
         dict(type='IoUCost', iou_mode='giou', weight=2.)]
KINDS = dict(conditional=ConditionalDETRHead, dab=DABDETRHead, deformable=DeformableDETRHead, dino=DINOHead)


class BatchedConditional(ConditionalDETRHead, BatchedMatchingHead):
    """See BatchedMatchingHead."""


class BatchedDAB(DABDETRHead, BatchedMatchingHead):
    """See BatchedMatchingHead."""


class BatchedDeformable(DeformableDETRHead, BatchedMatchingHead):
    """See BatchedMatchingHead."""


class BatchedDINO(DINOHead, BatchedMatchingHead):
    """See BatchedMatchingHead."""


BATCHED = dict(conditional=BatchedConditional, dab=BatchedDAB, deformable=BatchedDeformable, dino=BatchedDINO)


@TASK_UTILS.register_module(force=True)
class CountingAssigner(HungarianAssigner):
    """An assigner of another type, which may do what it wants."""

    calls = 0

    def assign(self, *args: Any, **kwargs: Any) -> AssignResult:
        type(self).calls += 1
        return super().assign(*args, **kwargs)


def head(cls: type, assigner: str = 'HungarianAssigner') -> DETRHead:
    init_default_scope('mmdet')
    extra = dict(share_pred_layer=False, num_pred_layer=LAYERS + 1, as_two_stage=True) if issubclass(
        cls, DeformableDETRHead) else {}
    return cls(
        num_classes=CLASSES, embed_dims=8, sync_cls_avg_factor=True, **extra,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=2.),
        loss_bbox=dict(type='L1Loss', loss_weight=5.), loss_iou=dict(type='GIoULoss', loss_weight=2.),
        train_cfg=ConfigDict(assigner=dict(type=assigner, match_costs=COSTS)))


def objects(counts: tuple[int, ...]) -> list[InstanceData]:
    height, width = SIZE
    scale = torch.tensor([width, height, width, height]) / 2
    return [InstanceData(bboxes=torch.cat([corner := torch.rand(n, 2), corner + torch.rand(n, 2) * .9 + .1], 1) * scale,
                         labels=torch.randint(CLASSES, (n, ))) for n in counts]


def predictions(*shape: int) -> tuple[Tensor, Tensor]:
    return (torch.randn(*shape, CLASSES, requires_grad=True),
            (torch.rand(*shape, 4) * .6 + .2).requires_grad_())


def losses(made: DETRHead, kind: str, counts: tuple[int, ...], queries: int = QUERIES) -> tuple[dict, list[Tensor]]:
    """Losses on random predictions, and their gradients."""
    torch.manual_seed(3)
    images, metas = len(counts), [dict(img_shape=SIZE)] * len(counts)
    gts = objects(counts)
    noise = 2 * 2 * max(max(counts), 1) if kind == 'dino' else 0  # two groups, positive and negative
    outputs = predictions(LAYERS, images, noise + queries)
    if kind in ('deformable', 'dino'):
        outputs = (*outputs, *predictions(images, 20))
    extra = (dict(num_denoising_queries=noise, num_denoising_groups=2), ) if kind == 'dino' else ()
    found = made.loss_by_feat(*outputs, gts, metas, *extra)
    return found, list(torch.autograd.grad(sum(found.values()), outputs))


@pytest.mark.parametrize('counts', [(3, 5), (0, 4, 2), (0, 0), (QUERIES + 5, 2)], ids=str)
@pytest.mark.parametrize('kind', list(KINDS))
def test_equals_mmdet_to_the_bit(kind: str, counts: tuple[int, ...]) -> None:
    expected, slopes = losses(head(KINDS[kind]), kind, counts)
    found, found_slopes = losses(head(BATCHED[kind]), kind, counts)
    assert list(found) == list(expected)
    assert {name for name in found if not torch.equal(found[name], expected[name])} == set()
    assert all(torch.equal(*pair) for pair in zip(found_slopes, slopes))


@pytest.mark.parametrize(('kind', 'transfers'), [('conditional', 1), ('dab', 1), ('deformable', 2), ('dino', 2)])
def test_one_transfer_for_all_layers(kind: str, transfers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the decoder, and one for the encoder of two-stage detectors; mmdet has one for each layer and image."""
    seen = []
    cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, 'cpu', lambda self: (seen.append(self.shape), cpu(self))[1])
    losses(head(BATCHED[kind]), kind, (3, 5))
    assert len(seen) == transfers
    assert seen[0] == (LAYERS * QUERIES * (3 + 5), )
    seen.clear()
    losses(head(KINDS[kind]), kind, (3, 5))
    assert len(seen) == 2 * (LAYERS + transfers - 1)


def test_other_assigners_do_as_they_want() -> None:
    CountingAssigner.calls = 0
    found, _ = losses(head(BatchedDeformable, 'CountingAssigner'), 'deformable', (3, 5))
    assert CountingAssigner.calls == 2 * (LAYERS + 1)
    expected, _ = losses(head(DeformableDETRHead), 'deformable', (3, 5))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_assigner_is_put_back() -> None:
    made = head(BatchedConditional)
    own = made.assigner
    with pytest.raises(KeyError, match='img_shape'):
        made.loss_by_feat(*predictions(LAYERS, 1, QUERIES), objects((2, )), [dict()])
    assert made.assigner is own
    losses(made, 'conditional', (2, 2))
    assert made.assigner is own


def test_unknown_predictions_are_assigned_on_the_spot() -> None:
    """A head that asks for other predictions than those of the step gets mmdet's answer for them."""
    torch.manual_seed(0)
    made, gts, metas = head(BatchedConditional), objects((3, )), [dict(img_shape=SIZE)]
    scores, boxes = predictions(1, 1, QUERIES)
    others = [list(part[0].detach().clone()) for part in predictions(1, 1, QUERIES)]
    expected = head(ConditionalDETRHead).get_targets(*others, gts, metas)
    with made._matched(scores, boxes, gts, metas):
        found = made.get_targets(*others, gts, metas)
    assert all(torch.equal(*pair) for pair in zip(found[0] + found[2], expected[0] + expected[2]))


@pytest.mark.parametrize('broken', [float('nan'), float('inf')])
def test_diverged_predictions(broken: float) -> None:
    made = head(BatchedConditional)
    scores, boxes = predictions(LAYERS, 2, QUERIES)
    boxes = boxes.detach().clone()
    boxes[1, 0, 3] = broken
    with pytest.raises(ValueError, match='predictions have diverged; lower optim_wrapper.optimizer.lr'):
        made.loss_by_feat(scores, boxes, objects((2, 2)), [dict(img_shape=SIZE)] * 2)


def test_groups_share_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that follow one another with the same labels object: one cost computation, same assignments."""
    torch.manual_seed(0)
    assigner, (first, second) = head(BatchedConditional).assigner, objects((3, 4))
    scores, boxes = predictions(LAYERS, 5, QUERIES)
    metas = [dict(img_shape=SIZE)] * 5
    expected = match(assigner, scores, boxes, [InstanceData(**gt) for gt in (first, first, first, second, second)],
                     metas)
    calls = []
    cost = set_matching._cost
    monkeypatch.setattr(set_matching, '_cost', lambda *args: (calls.append(1), cost(*args))[1])
    found = match(assigner, scores, boxes, [first, first, first, second, second], metas)
    assert len(calls) == 2
    assert torch.equal(found, expected)


@settings(max_examples=20, deadline=None)
@given(queries=st.integers(0, 4), count=st.integers(0, 4), seed=st.integers(0, 99))
def test_matching_is_the_best_there_is(queries: int, count: int, seed: int) -> None:
    """Against all permutations."""
    torch.manual_seed(seed)
    assigner, gts, metas = head(BatchedConditional).assigner, objects((count, )), [dict(img_shape=SIZE)]
    scores, boxes = (part.detach() for part in predictions(1, 1, queries))
    found = match(assigner, scores, boxes, gts, metas)[0, 0]
    matched = found[found > 0] - 1
    assert len(set(matched.tolist())) == len(matched) == min(queries, count)
    if not len(matched):
        return
    cost = set_matching._cost(assigner, scores[0, 0], boxes[0, 0], gts[0], metas[0])
    best = min(sum(cost[pair] for pair in zip(rows, columns))
               for rows in itertools.combinations(range(queries), min(queries, count))
               for columns in itertools.permutations(range(count), min(queries, count)))
    torch.testing.assert_close(cost[found.nonzero()[:, 0], matched].sum(), best)
