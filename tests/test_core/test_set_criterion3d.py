"""Set criterion of 3D boxes: overlaps, costs, matching and losses against loops, closed forms and recorded 3DETR."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.structures import DepthInstance3DBoxes
from mmengine.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers.layers.overlaps3d import overlaps3d
from mmpapers.layers.set_criterion3d import BoxQueries, BoxTargets, yaw_bins, yaw_of_bins

pytestmark = pytest.mark.core
PARITY = np.load(Path(__file__).parents[1] / 'data/parity/sparsepoint.npz')
COSTS = [dict(type='mmpapers.SoftmaxCost3D', weight=1.), dict(type='mmpapers.ObjectnessCost3D', weight=2.),
         dict(type='mmpapers.CenterL1Cost', weight=5.), dict(type='mmpapers.IoU3DCost', weight=3.)]
ASSIGNER = dict(type='mmpapers.HungarianAssigner3D', costs=COSTS)


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def official(kind: str, requires_grad: bool = False) -> tuple[BoxQueries, BoxTargets]:
    """Input of the recording."""
    boxes = recorded(f'{kind}_queries').requires_grad_(requires_grad)
    turned = (recorded('dir_logits'), recorded('dir_residuals')) if kind == 'turned' else ()
    targets = BoxTargets(recorded(f'{kind}_objects'), recorded('labels'), tuple(PARITY['counts'].tolist()),
                         recorded('scale'))
    return BoxQueries(recorded('logits'), boxes, *turned), targets


def boxes(*shape: int, turned: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
    centre, size, yaw = (torch.rand(*shape, n, dtype=dtype) for n in (3, 3, 1))
    return torch.cat([2 * centre, 0.3 + 1.5 * size, 6.28 * yaw * turned], -1)


def instances(*scenes: tuple[Tensor, list[int]]) -> list[InstanceData]:
    """Objects (G, 7), given by their centres, with labels, as data samples hold them."""
    return [InstanceData(bboxes_3d=DepthInstance3DBoxes(box, origin=(.5, .5, .5)), labels_3d=torch.tensor(label))
            for box, label in scenes]


def test_overlap_of_known_boxes() -> None:
    cube = torch.tensor([0., 0, 0, 1, 1, 1, 0])
    half = torch.tensor([.5, 0, 0, 1, 1, 1, 0])
    far = torch.tensor([3., 0, 0, 1, 1, 1, 0])
    diamond = torch.tensor([0., 0, 0, 1, 1, 1, math.pi / 4])
    for rotated in (False, True):
        assert overlaps3d(cube, half, rotated=rotated) == pytest.approx(1 / 3)
        assert overlaps3d(cube, half, True, rotated) == pytest.approx(1 / 3)
        assert overlaps3d(cube, far, True, rotated) == pytest.approx(0 - (1 - 2 / 4))
        assert overlaps3d(cube, cube, True, rotated) == pytest.approx(1)
    octagon = 2 * (math.sqrt(2) - 1)
    assert overlaps3d(cube, diamond, rotated=True) == pytest.approx(octagon / (2 - octagon), rel=1e-5)
    assert overlaps3d(cube, diamond, True, True) == pytest.approx(
        octagon / (2 - octagon) - (1 - (2 - octagon) / 2), rel=1e-5)


@pytest.mark.parametrize('giou', [False, True])
@pytest.mark.parametrize('rotated', [False, True])
def test_overlap_properties(giou: bool, rotated: bool) -> None:
    a, b = boxes(40), boxes(30)
    values = overlaps3d(a[:, None], b, giou, rotated)
    assert values.shape == (40, 30) and (values <= 1).all() and (values >= (-1 if giou else 0)).all()
    torch.testing.assert_close(values, overlaps3d(b[:, None], a, giou, rotated).T)
    a[:, 6] = b[:, 6] = 0
    torch.testing.assert_close(overlaps3d(a[:, None], b, giou, True), overlaps3d(a[:, None], b, giou, False))
    flat = a.clone()
    flat[:, 3] = 0
    assert torch.isfinite(overlaps3d(flat[:, None], flat, giou, rotated)).all()


def test_overlap_is_mmdet3ds() -> None:
    a, b = boxes(20), boxes(15)
    stock = DepthInstance3DBoxes.overlaps(*(DepthInstance3DBoxes(x, origin=(.5, .5, .5)) for x in (a, b)))
    torch.testing.assert_close(overlaps3d(a[:, None], b, rotated=True), stock, atol=1e-5, rtol=1e-4)


def test_overlap_with_a_gradient_is_the_same_and_differentiable() -> None:
    a, b = boxes(12, dtype=torch.float64), boxes(12, dtype=torch.float64)
    for giou, rotated in itertools.product((False, True), repeat=2):
        live = a.clone().requires_grad_()
        values = overlaps3d(live, b, giou, rotated)
        torch.testing.assert_close(values.detach(), overlaps3d(a, b, giou, rotated), atol=1e-6, rtol=1e-5)
        values.sum().backward()
        step = 1e-6 * torch.randn_like(a)
        change = overlaps3d(a + step, b, giou, rotated) - overlaps3d(a - step, b, giou, rotated)
        torch.testing.assert_close((live.grad * 2 * step).sum(), change.sum(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize('kind', ['straight', 'turned'])
def test_overlaps_are_3detrs(kind: str) -> None:
    queries, targets = official(kind)
    expected = recorded(f'{kind}_gious')
    found = overlaps3d(queries.boxes[:, :, None], targets.boxes[:, None], True, queries.rotated)
    real = torch.arange(5) < recorded('counts')[:, None, None]
    assert expected.max() > 0.1
    torch.testing.assert_close(found * real, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('kind', ['straight', 'turned'])
def test_matching_is_3detrs(kind: str) -> None:
    assert torch.equal(TASK_UTILS.build(ASSIGNER).assign(*official(kind)), recorded(f'{kind}_matched'))


@pytest.mark.parametrize('kind', ['straight', 'turned'])
def test_losses_are_3detrs(kind: str) -> None:
    names = dict(cls='sem_cls', center='center', size='size', iou='giou', dir_cls='angle_cls', dir_res='angle_reg')
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER, no_object_weight=0.25,
                                  log_size=False, weights=dict.fromkeys(names, 1.)))
    losses = criterion([official(kind)[0]], official(kind)[1])
    assert len(losses) == (6 if kind == 'turned' else 4)
    for ours, theirs in names.items():
        if f'loss_{ours}' in losses:
            torch.testing.assert_close(losses[f'loss_{ours}'], recorded(f'{kind}_loss_{theirs}'), rtol=2e-5, atol=1e-6)


def queries_of(stages: int, samples: int, number: int, classes: int, turned: bool) -> list[BoxQueries]:
    return [BoxQueries(torch.randn(samples, number, classes + 1, requires_grad=True),
                       boxes(samples, number, turned=turned).requires_grad_(),
                       *(torch.randn(samples, number, 12, requires_grad=True) for _ in range(2 * turned)))
            for _ in range(stages)]


def test_matching_is_the_best_of_all_permutations() -> None:
    queries, = queries_of(1, 2, 5, 4, True)
    targets = BoxTargets.pad(instances((boxes(3), [0, 2, 1]), (boxes(2), [3, 3])), torch.full((2, 3), 4.))
    assigner = TASK_UTILS.build(ASSIGNER)
    cost = sum(each(queries, targets) for each in assigner.costs)
    matched = assigner.assign(queries, targets)
    for b, count in enumerate(targets.counts):
        best = min(itertools.permutations(range(5), count), key=lambda p: sum(cost[b, q, j] for j, q in enumerate(p)))
        assert [int((matched[b] == j).nonzero()) for j in range(count)] == list(best)


def test_every_stage_gives_each_object_one_prediction() -> None:
    """K objects never have more than K positives, in any stage."""
    stages = queries_of(3, 4, 9, 5, False)
    counts = (0, 1, 6, 4)
    targets = BoxTargets.pad(instances(*((boxes(n), [1] * n) for n in counts)), torch.full((4, 3), 4.))
    matched = TASK_UTILS.build(ASSIGNER).assign(BoxQueries.cat(stages), targets.repeat(3))
    for row, count in zip(matched, counts * 3):
        assert sorted(row[row >= 0].tolist()) == list(range(count))


def test_more_objects_than_predictions_and_costs_that_are_not_finite() -> None:
    queries, = queries_of(1, 1, 3, 5, False)
    targets = BoxTargets.pad(instances((boxes(8), [1] * 8)), torch.full((1, 3), 4.))
    queries.boxes.data[0, 0] = math.nan
    queries.logits.data[0, 1] = math.inf
    matched = TASK_UTILS.build(ASSIGNER).assign(queries, targets)
    assert len(set(matched[0].tolist())) == 3 and (matched >= 0).all()


def test_padding_changes_nothing_and_unknown_objects_are_left_out() -> None:
    first, second = boxes(2), boxes(5)
    both = BoxTargets.pad(instances((first, [0, 1]), (second, [2, -1, 0, 1, 1])), torch.full((2, 3), 4.))
    assert both.counts == (2, 4) and both.boxes.shape == (2, 4, 7)
    torch.testing.assert_close(both.boxes[1], second[[0, 2, 3, 4]])
    stages = queries_of(2, 2, 6, 3, False)
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER))
    alone = BoxTargets.pad(instances((first, [0, 1])), torch.full((1, 3), 4.))
    single = [BoxQueries(s.logits[:1], s.boxes[:1]) for s in stages]
    matched = criterion.assigner.assign(BoxQueries.cat(stages), both.repeat(2))
    assert torch.equal(matched[[0, 2]], criterion.assigner.assign(BoxQueries.cat(single), alone.repeat(2)))


@pytest.mark.parametrize('turned', [False, True])
def test_losses_are_a_loop(turned: bool) -> None:
    """One stage after another, one object after another, written from the formulas."""
    stages = queries_of(2, 2, 6, 3, turned)
    scale = torch.tensor([[4.] * 3, [6.] * 3])
    targets = BoxTargets.pad(instances((boxes(2, turned=turned), [0, 2]), (boxes(3, turned=turned), [1, 1, 0])), scale)
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER, no_object_weight=0.2, giou=False,
                                  weights=dict(iou=2.)))
    losses = criterion(stages, targets)
    for t, (stage, prefix) in enumerate(zip(stages, ('d0.', ''))):
        matched = criterion.assigner.assign(stage, targets)
        expected = dict.fromkeys(['cls', 'center', 'size', 'iou'] + ['dir_cls', 'dir_res'] * turned, 0.)
        weight = 0.
        for b, q in itertools.product(range(2), range(6)):
            g = int(matched[b, q])
            label = int(targets.labels[b, g]) if g >= 0 else 3
            expected['cls'] -= (1 if g >= 0 else 0.2) * float(stage.logits[b, q].log_softmax(0)[label])
            weight += 1 if g >= 0 else 0.2
            if g < 0:
                continue
            found, truth = stage.boxes[b, q].detach(), targets.boxes[b, g]
            expected['center'] += 5 * float((found - truth)[:3].abs().sum() / scale[b, 0]) / 5
            expected['size'] += sum(abs(math.log(found[i] / truth[i])) for i in (3, 4, 5)) / 5
            expected['iou'] += 2 * float(1 - overlaps3d(found, truth, rotated=turned)) / 5
            if turned:
                bin_ = round(float(truth[6]) / (2 * math.pi / 12)) % 12
                residual = (float(truth[6]) - bin_ * math.pi / 6 + math.pi) % (2 * math.pi) - math.pi
                error = abs(float(stage.dir_residuals[b, q, bin_]) - residual / (math.pi / 12))
                expected['dir_cls'] -= 0.1 * float(stage.dir_logits[b, q].log_softmax(0)[bin_]) / 5
                expected['dir_res'] += 0.5 * (error**2 / 2 if error < 1 else error - 0.5) / 5
        expected['cls'] /= weight
        for name, value in expected.items():
            assert float(losses[f'{prefix}loss_{name}']) == pytest.approx(value, rel=1e-4), (t, name)
    assert len(losses) == 2 * len(expected)


@pytest.mark.parametrize('turned', [False, True])
def test_scenes_without_objects_have_a_finite_loss(turned: bool) -> None:
    stages = queries_of(2, 2, 6, 3, turned)
    targets = BoxTargets.pad(instances((boxes(0), []), (boxes(0), [])), torch.full((2, 3), 4.))
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER))
    losses = criterion(stages, targets)
    for name, value in losses.items():
        assert torch.isfinite(value) and (value > 0 if name.endswith('cls') and 'dir' not in name else value == 0), name
    sum(losses.values()).backward()
    assert all(s.boxes.grad is not None and torch.isfinite(s.boxes.grad).all() for s in stages)


def test_only_one_transfer_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stages there are."""
    calls = []
    original: Callable = Tensor.cpu
    monkeypatch.setattr(Tensor, 'cpu', lambda self: calls.append(self.shape) or original(self))
    stages = queries_of(4, 2, 6, 3, False)
    targets = BoxTargets.pad(instances((boxes(2), [0, 1]), (boxes(1), [1])), torch.full((2, 3), 4.))
    MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER))(stages, targets)
    assert calls == [(8, 6, 2)]


def test_yaw_bins_and_back() -> None:
    yaw = torch.linspace(-7, 7, 200, dtype=torch.float64)
    bin_, residual = yaw_bins(yaw, 12)
    assert bin_.min() == 0 and bin_.max() == 11 and residual.abs().max() <= 1
    error = (yaw_of_bins(bin_, residual, 12) - yaw) % (2 * math.pi)
    assert torch.minimum(error, 2 * math.pi - error).max() < 1e-9


def test_half_precision_predictions_are_compared_in_float32() -> None:
    stage = queries_of(1, 1, 6, 3, True)[0]
    half = BoxQueries(*(x.detach().half() for x in (stage.logits, stage.boxes, stage.dir_logits, stage.dir_residuals)))
    joined = BoxQueries.cat([half, half])
    assert joined.logits.dtype == joined.boxes.dtype == joined.dir_residuals.dtype == torch.float32
    targets = BoxTargets.pad(instances((boxes(2), [0, 1])), torch.full((1, 3), 4.))
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER))
    assert all(value.dtype == torch.float32 for value in criterion([half, half], targets).values())


def test_errors_name_what_to_change() -> None:
    with pytest.raises(ValueError, match=r'weights has no centre; it takes cls, center'):
        MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER, weights=dict(centre=1.)))
    with pytest.raises(ValueError, match='costs is empty'):
        TASK_UTILS.build(dict(type='mmpapers.HungarianAssigner3D', costs=[]))
    targets = BoxTargets.pad(instances((boxes(1), [3])), torch.full((1, 3), 4.))
    criterion = MODELS.build(dict(type='mmpapers.SetCriterion3D', assigner=ASSIGNER))
    with pytest.raises(ValueError, match=r'a label is 3, but the head has 3 classes; set bbox_head.num_classes'):
        criterion(queries_of(1, 1, 4, 3, False), targets)
