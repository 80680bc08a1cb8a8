"""DenseBoundaryProposal: targets against loops, areas, rotation, losses against formulas, errors."""

import math

import pytest
import torch
from torch import Tensor

from mmpapers.models import DenseBoundaryProposal
from mmpapers.projects.denfi.proposal import boundary_iou, focal_loss

pytestmark = pytest.mark.det3d
RANGE = [-8, -8, -3, 8, 8, 1]


def proposal(classes: int = 3, voxel: float = .25, **options: object) -> DenseBoundaryProposal:
    """A proposal on 16 x 16 m with cells of two voxels."""
    made = DenseBoundaryProposal(4, classes, RANGE, [voxel, voxel, 4], 2, **options)
    made.init_weights()
    return made


def scene(count: int = 6) -> tuple[Tensor, Tensor]:
    """Random overlapping boxes, sizes from a person's to a truck's, and labels."""
    place, size = torch.rand(count, 2) * 12 - 6, torch.rand(count, 2) * torch.tensor([6., 2.]) + .4
    return torch.cat([place, size, torch.rand(count, 1) * 8 - 4], 1), torch.randint(0, 3, (count, ))


def in_frame(x: float, y: float, box: list[float]) -> tuple[float, float]:
    dx, dy = x - box[0], y - box[1]
    return (dx * math.cos(box[4]) + dy * math.sin(box[4]), dy * math.cos(box[4]) - dx * math.sin(box[4]))


def naive(module: DenseBoundaryProposal, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positive and ignored cells per class and the index of the box trained at a cell (-1: none), by loops."""
    height, width = module.grid.size
    positive = torch.zeros(module.num_classes, height, width, dtype=torch.bool)
    ignored, owner = positive.clone(), torch.full((height, width), -1)
    cells = [(row, column, module.grid.origin[0] + (column + .5) * module.grid.cell[0],
              module.grid.origin[1] + (row + .5) * module.grid.cell[1])
             for row in range(height) for column in range(width)]

    def inside(x: float, y: float, box: list[float], factor: float) -> bool:
        u, v = in_frame(x, y, box)
        return abs(u) < factor * box[2] / 2 and abs(v) < factor * box[3] / 2
    for index, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist())):
        claimed = [cell for cell in cells if inside(*cell[2:], box, module.sigma1)]
        claimed = claimed or [cell for cell in cells if inside(*cell[2:], box, 1) and
                              abs(cell[2] - box[0]) <= module.grid.cell[0] / 2 and
                              abs(cell[3] - box[1]) <= module.grid.cell[1] / 2]
        for row, column, *_ in claimed:
            positive[label, row, column] = True
            before = boxes[owner[row, column]]
            if owner[row, column] < 0 or box[2] * box[3] < before[2] * before[3]:
                owner[row, column] = index
        for row, column, x, y in cells:
            ignored[label, row, column] |= inside(x, y, box, module.sigma2)
    return positive, ignored & ~positive, owner


def test_targets_equal_loops() -> None:
    module = proposal()
    for _ in range(4):
        boxes, labels = scene()
        found, (positive, ignored, owner) = module.targets(boxes, labels), naive(module, boxes, labels)
        assert torch.equal(found.positive, positive) and torch.equal(found.ignored, ignored)
        assert torch.equal(found.foreground, owner >= 0) and found.foreground.any()
        for row, column in found.foreground.nonzero().tolist():
            box = boxes[owner[row, column]].tolist()
            box[4] = float(found.bins[row, column] + found.residuals[row, column] / 2) * math.pi / 4
            assert math.sin(box[4] - float(boxes[owner[row, column], 4])) == pytest.approx(0, abs=1e-5)
            u, v = in_frame(-8 + (column + .5) * .5, -8 + (row + .5) * .5, box)
            expected = [box[2] / 2 + u, box[2] / 2 - u, box[3] / 2 - v, box[3] / 2 + v]
            assert found.distances[:, row, column].tolist() == pytest.approx(expected, abs=1e-4)
            assert min(expected) > 0


def test_areas_of_positive_ignored_and_negative_cells() -> None:
    """On fine cells the parts of a class have the areas of the shrunk boxes; they never overlap."""
    module = proposal(voxel=.025)
    box = torch.tensor([[.3, -.4, 8., 5., .7]])
    found = module.targets(box, torch.tensor([1]))
    area = float(box[0, 2] * box[0, 3])
    assert float(found.positive[1].sum()) * .05 ** 2 == pytest.approx(.5 ** 2 * area, rel=.01)
    assert float(found.ignored[1].sum()) * .05 ** 2 == pytest.approx((.8 ** 2 - .5 ** 2) * area, rel=.01)
    assert not (found.positive & found.ignored).any()
    assert not found.positive[[0, 2]].any() and not found.ignored[[0, 2]].any()


def test_classes_ignore_only_their_own_cells() -> None:
    """A rider in the rim of a car: foreground for the one, ignored for the other."""
    found = proposal(voxel=.1).targets(torch.tensor([[0., 0., 6., 4., 0.], [2., 0., 1., 1., 0.]]), torch.tensor([2, 0]))
    rider = found.positive[0]
    assert rider.any() and found.ignored[2][rider].all() and not found.positive[2][rider].any()
    assert (found.distances[:2].sum(0)[rider] - 1).abs().max() < 1e-5  # the smaller box is trained


def test_small_objects_take_the_cell_of_their_centre() -> None:
    module = proposal(voxel=.5)  # cells of a metre
    found = module.targets(torch.tensor([[.9, .6, .9, .7, .3], [3.95, 4.05, .3, .3, 0.]]), torch.tensor([0, 1]))
    assert found.positive[0].nonzero().tolist() == [[8, 8]]
    assert found.foreground.sum() == 1  # the second one's cell has its centre elsewhere
    assert (found.distances[:, 8, 8] > 0).all()


def test_rotating_the_scene_rotates_the_targets() -> None:
    module = proposal()
    boxes, labels = scene()
    turned = torch.stack([-boxes[:, 1], boxes[:, 0], boxes[:, 2], boxes[:, 3], boxes[:, 4] + math.pi / 2], 1)
    one, other = module.targets(boxes, labels), module.targets(turned, labels)
    for name in ('positive', 'ignored', 'foreground'):
        assert torch.equal(getattr(other, name), getattr(one, name).transpose(-2, -1).flip(-1)), name
    size = [t.distances[::2] + t.distances[1::2] for t in (one, other)]
    expected = size[0].transpose(-2, -1).flip(-1)
    torch.testing.assert_close(size[1][:, other.foreground], expected[:, other.foreground], atol=1e-4, rtol=0)


def test_boxes_without_label_or_area_and_empty_frames() -> None:
    module = proposal()
    for boxes, labels in ((torch.tensor([[0., 0., 4., 2., 0.]]), torch.tensor([-1])),
                          (torch.tensor([[.25, .25, 0., 2., 0.]]), torch.tensor([0])),
                          (torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)),
                          (torch.tensor([[50., 0., 4., 2., 0.]]), torch.tensor([0]))):
        found = module.targets(boxes, labels)
        assert not found.positive.any() and not found.ignored.any() and not found.foreground.any()
        assert found.distances.shape == (4, 32, 32) and found.bins.shape == (32, 32)


def test_decode_bounds_distances_and_takes_the_best_bin() -> None:
    module = proposal(max_distance=5.)
    raw = torch.zeros(1, 12, 2, 2)
    raw[0, :4] = torch.tensor([-200., 0., math.log(3), 200.])[:, None, None]
    raw[0, 6] = 1.
    raw[0, 10] = .5
    distances, axis = module.decode(raw)
    assert distances[0, :, 0, 0].tolist() == pytest.approx([0, 1, 3, 5])
    assert axis[0, 1, 1] == pytest.approx(2.5 * math.pi / 4 - .25 * math.pi / 4 + 0, abs=1e-6)


def test_losses_equal_formulas() -> None:
    module = proposal(loss_weights=(1., 2., .5, 3.))
    torch.nn.init.normal_(module.reg.weight, std=.3)
    torch.nn.init.normal_(module.cls.weight, std=.3)
    x, boxes, labels = torch.randn(1, 4, 32, 32), *scene()
    raw = module(x)
    found = {name: float(value.detach()) for name, value in module.loss(x, raw, [boxes], [labels]).items()}
    positive, ignored, _ = naive(module, boxes, labels)
    target = module.targets(boxes, labels)
    scores, sums = module.cls(x)[0].detach(), dict.fromkeys(('cls', 'iou', 'bin', 'res'), 0.)
    for k, row, column in (~ignored).nonzero().tolist():
        p = float(scores[k, row, column].sigmoid())
        sums['cls'] -= .25 * (1 - p) ** 2 * math.log(p) if positive[k, row, column] else .75 * p ** 2 * math.log(1 - p)
    for row, column in target.foreground.nonzero().tolist():
        cell, true = raw[0, :, row, column].tolist(), target.distances[:, row, column].tolist()
        mine = list(map(math.exp, cell[:4]))
        least = list(map(min, true, mine))
        both, one, other = ((d[0] + d[1]) * (d[2] + d[3]) for d in (least, true, mine))
        sums['iou'] -= math.log(both / (one + other - both))
        index = int(target.bins[row, column])
        sums['bin'] += math.log(sum(map(math.exp, cell[4:8]))) - cell[4 + index]
        gap = abs(cell[8 + index] - float(target.residuals[row, column]))
        sums['res'] += gap - 1 / 18 if gap > 1 / 9 else gap * gap * 4.5
    count = int(target.foreground.sum())
    for name, weight in zip(sums, (1., 2., .5, 3.)):
        assert found[f'loss_boundary_{name}'] == pytest.approx(weight * sums[name] / count, rel=1e-4), name


def test_perfect_predictions_cost_nothing_and_ignored_scores_do_not_count() -> None:
    module = proposal()
    boxes, labels = scene()
    target = module.targets(boxes, labels)
    raw = torch.zeros(1, 12, 32, 32)
    raw[0, :4] = target.distances.clamp(min=1e-3).log()
    raw[0, 4:8] = torch.nn.functional.one_hot(target.bins, 4).permute(2, 0, 1) * 50.
    raw[0, 8:] = target.residuals
    losses = module.loss(torch.zeros(1, 4, 32, 32), raw, [boxes], [labels])
    assert all(float(losses[f'loss_boundary_{name}'].detach()) < 1e-5 for name in ('iou', 'bin', 'res'))
    wrong = torch.where(target.positive | target.ignored, 30., -30.)
    right = torch.where(target.positive, 30., -30.)
    terms = [(focal_loss(s, target.positive) * ~target.ignored).sum() for s in (wrong, right)]
    assert terms[0] == terms[1] and float(terms[0]) < 1e-6


@pytest.mark.parametrize('shift', [0., 200.])
def test_gradients_are_finite_and_present(shift: float) -> None:
    """Without a box, and for distances beyond any number."""
    module = proposal()
    x = torch.randn(2, 4, 32, 32, requires_grad=True)
    boxes = [torch.zeros(0, 5), torch.zeros(0, 5)] if not shift else [scene()[0], scene()[0]]
    labels = [torch.zeros(len(b), dtype=torch.long) for b in boxes]
    raw = module(x) + torch.cat([torch.full((4, ), shift), torch.zeros(8)])[:, None, None]
    sum(module.loss(x, raw, boxes, labels).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *module.parameters()))


def test_boundary_iou() -> None:
    one = torch.tensor([[1., 1., 1., 1.], [2., 2., 1., 1.], [0., 0., 0., 0.]])
    other = torch.tensor([[1., 1., 1., 1.], [1., 1., 1., 1.], [1., 1., 1., 1.]])
    assert boundary_iou(one, other).tolist() == [1., .5, 0.]


def test_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match='0 < proposal.sigma1 <= proposal.sigma2 <= 1 must hold, but they are 0.9 and'):
        proposal(sigma1=.9)
    with pytest.raises(ValueError, match='proposal.num_bins, proposal.num_classes and proposal.max_distance must be'):
        proposal(num_bins=0)
    with pytest.raises(ValueError, match=r'proposal.loss_weights needs 4 numbers that are not negative \(cls, iou'):
        proposal(loss_weights=(1, 1))
    with pytest.raises(ValueError, match='a box has the label 3, but proposal.num_classes=3'):
        proposal().targets(torch.tensor([[0., 0., 4., 2., 0.]]), torch.tensor([3]))
    with pytest.raises(ValueError, match=r'32 x 32 cells \(y, x\), but the neck gives 16 x 16; proposal.stride=4 '):
        proposal()(torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r'but the neck gives 32 x 30$'):
        proposal()(torch.zeros(1, 4, 32, 30))
