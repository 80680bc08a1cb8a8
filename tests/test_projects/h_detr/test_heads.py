"""Hybrid matching in the heads: repeated labels, normalisers, schemes, number of matches."""

from pathlib import Path

import pytest
import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmpapers.layers.query_sets import QuerySet, QuerySets
from mmpapers.layers.set_matching import match
from mmpapers.projects.h_detr.heads import HybridDeformableDETRHead, repeated

pytestmark = pytest.mark.det
TINY = Path(__file__).parents[3] / 'projects/h_detr/configs/h-deformable-detr_tiny-cpu.py'
LAYERS, CLASSES, SIZE = 3, 3, (60, 90)
METAS = [dict(img_shape=SIZE)] * 2


def head(kind: str = 'HybridDeformableDETRHead', **changes: object) -> HybridDeformableDETRHead:
    init_default_scope('mmdet')
    cfg = Config.fromfile(TINY).model
    return MODELS.build({**cfg.bbox_head, 'type': f'mmpapers.{kind}', 'train_cfg': cfg.train_cfg, 'k_one2many': 3,
                         'share_pred_layer': False, 'num_pred_layer': LAYERS + 1, 'as_two_stage': True, **changes})


def objects(*counts: int) -> list[InstanceData]:
    height, width = SIZE
    scale = torch.tensor([width, height, width, height]) / 2
    return [InstanceData(bboxes=torch.cat([corner := torch.rand(n, 2), corner + torch.rand(n, 2) * .9 + .1], 1) * scale,
                         labels=torch.randint(CLASSES, (n, ))) for n in counts]


def predictions(queries: int, layers: int = LAYERS) -> tuple[Tensor, Tensor]:
    return torch.randn(layers, 2, queries, CLASSES), torch.rand(layers, 2, queries, 4) * .6 + .2


def plain(made: HybridDeformableDETRHead, scores: Tensor, boxes: Tensor, gts: list[InstanceData]) -> dict[str, Tensor]:
    """mmdet's losses of decoder layers."""
    return DeformableDETRHead.loss_by_feat(made, scores, boxes, None, None, gts, METAS)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].squeeze(), value.squeeze(), rtol=1e-5, atol=1e-6,
                                   msg=lambda m, n=name: f'{n}: {m}')


@pytest.mark.parametrize('kind', ['HybridDeformableDETRHead', 'HybridDINOHead'])
def test_k_copies_cost_what_one_costs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one-to-many set holds K copies of the one-to-one set: equal losses, in every layer."""
    made = head(kind)
    monkeypatch.setattr(made, 'forward', lambda hidden, boxes: (hidden, torch.stack(boxes)))
    scores, boxes = predictions(8)
    samples = [DetDataSample(metainfo=dict(img_shape=SIZE)) for _ in range(2)]
    for sample, gt in zip(samples, objects(3, 5)):
        sample.gt_instances = gt
    extra = {}
    if kind == 'HybridDINOHead':
        extra = dict(dn_meta=None)
        monkeypatch.setattr(made, 'split_outputs', lambda scores, boxes, _: (scores, boxes, None, None))
    found = made.loss(scores.repeat(1, 1, 4, 1), list(boxes.repeat(1, 1, 4, 1)), samples,
                      QuerySets([QuerySet('one2one', 8), QuerySet('one2many', 24)]),
                      enc_outputs_class=None, enc_outputs_coord=None, **extra)
    further = {name.removesuffix('_one2many'): loss for name, loss in found.items() if 'one2many' in name}
    assert len(further) == 3 * LAYERS
    assert_same(further, {name: loss for name, loss in found.items() if 'one2many' not in name})


@pytest.mark.parametrize(('queries', 'counts'), [(30, (4, 6)), (10, (2, 6)), (5, (0, 9))])
def test_matches_of_each_label(queries: int, counts: tuple[int, int]) -> None:
    """K for each, as long as there are queries; the queries' number otherwise."""
    made = head()
    gts = [repeated(gt, 3) for gt in objects(*counts)]
    assigned = match(made.assigner, *predictions(queries), gts, METAS)
    for image, count in enumerate(counts):
        for row in assigned[:, image]:
            positive = row[row > 0] - 1
            assert len(positive) == min(queries, 3 * count)
            times = torch.bincount(positive % max(count, 1), minlength=count)
            assert 3 * count > queries or times.tolist() == [3] * count


def loop(scores: Tensor, boxes: Tensor, gts: list[InstanceData], k: int) -> tuple[float, float, float]:
    """The losses of one layer from the formulas: labels repeated K times, divided by K times their number."""
    height, width = SIZE
    scale, wanted = torch.tensor([width, height, width, height]), max(k * sum(map(len, gts)), 1)
    total = torch.zeros(3)
    for score, box, gt in zip(scores, boxes, gts):
        goal = torch.zeros_like(score)
        probability = score.sigmoid()
        if len(gt):
            targets, labels = gt.bboxes.repeat(k, 1), gt.labels.repeat(k)
            corners = bbox_cxcywh_to_xyxy(box) * scale
            positive = .25 * (1 - probability) ** 2 * -(probability + 1e-12).log()
            negative = .75 * probability ** 2 * -(1 - probability + 1e-12).log()
            giou = bbox_overlaps(corners, targets, mode='giou')
            centred = torch.cat([targets[:, :2] + targets[:, 2:], 2 * (targets[:, 2:] - targets[:, :2])], 1) / 2 / scale
            distance = (box[:, None] - centred).abs().sum(-1)
            cost = 2 * (positive - negative)[:, labels] + 5 * distance - 2 * giou
            for row, column in zip(*linear_sum_assignment(cost)):
                goal[row, labels[column]] = 1
                total += torch.tensor([0., 5 * distance[row, column], 2 * (1 - giou[row, column])])
        right = torch.where(goal > 0, probability, 1 - probability)
        total[0] -= 2 * (torch.where(goal > 0, .25, .75) * (1 - right) ** 2 * right.log()).sum()
    return tuple((total / wanted).tolist())


@pytest.mark.parametrize('sync', [True, False])
@pytest.mark.parametrize('counts', [(2, 3), (0, 4), (2, 9), (0, 0)], ids=str)
def test_repeated_losses_against_a_loop(counts: tuple[int, int], sync: bool) -> None:
    """With 10 queries and K = 3, also where the labels outnumber the queries and the normaliser stays K n."""
    scores, boxes = predictions(10, layers=2)
    gts = objects(*counts)
    found = head(sync_cls_avg_factor=sync).repeated_losses(scores, boxes, gts, METAS)
    for layer, place in enumerate(('d0.', '')):
        names = [f'{place}loss_{kind}' for kind in ('cls', 'bbox', 'iou')]
        torch.testing.assert_close(torch.stack([found[name].squeeze() for name in names]),
                                   torch.tensor(loop(scores[layer], boxes[layer], gts, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('given', 'several'), [(2, 2), (3, 3), (9, 3), (0, 0)])
def test_layer_scheme(given: int, several: int) -> None:
    """The first layers see repeated labels, the others one of each."""
    made, gts = head(scheme='layer', one2many_layers=given), objects(3, 2)
    scores, boxes = predictions(20)
    found = plain(made, scores, boxes, gts)
    expected = {}
    for layer in range(LAYERS):
        one = (scores[layer:layer + 1], boxes[layer:layer + 1], gts)
        losses = made.repeated_losses(*one, METAS) if layer < several else plain(head(), *one)
        place = '' if layer == LAYERS - 1 else f'd{layer}.'
        expected |= {f'{place}{name}': loss for name, loss in losses.items()}
    assert_same(found, expected)


@pytest.mark.parametrize(('done', 'repeats'), [(0, True), (65, True), (67, False), (99, False)])
def test_epoch_scheme(done: int, repeats: bool) -> None:
    """Repeated labels in the first two thirds of the run."""
    hub = MessageHub.get_instance(f'h_detr-{done}')
    hub.update_info('iter', done)
    hub.update_info('max_iters', 100)
    made, gts = head(scheme='epoch'), objects(3, 2)
    scores, boxes = predictions(20)
    expected = made.repeated_losses(scores, boxes, gts, METAS) if repeats else plain(head(), scores, boxes, gts)
    assert_same(plain(made, scores, boxes, gts), expected)


def test_encoder_sees_labels_once() -> None:
    """In every scheme proposals are matched one to one."""
    gts, (scores, boxes), (enc_scores, enc_boxes) = objects(3, 2), predictions(20), predictions(30)
    made = [head(scheme=scheme) for scheme in ('branch', 'epoch', 'layer')]
    losses = [each.loss_by_feat(scores, boxes, enc_scores[0], enc_boxes[0], gts, METAS) for each in made]
    for name in ('enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'):
        assert losses[0][name] == losses[1][name] == losses[2][name] > 0


def test_errors() -> None:
    with pytest.raises(ValueError, match="scheme='Branch'; choose from branch, epoch, layer"):
        head(scheme='Branch')
    with pytest.raises(ValueError, match='k_one2many=0 must be 1 or more'):
        head(k_one2many=0)
