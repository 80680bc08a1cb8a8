"""TTFGaussianTarget: recorded official values, a per-object loop, and the properties of the paper."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from torch import Tensor

from mmpapers.projects.ttfnet.targets import TTFGaussianTarget

pytestmark = pytest.mark.det
PARITY = np.load(Path(__file__).parents[2] / 'data/parity/ttfnet.npz')


def random_boxes(number: int, size: int) -> Tensor:
    centre = torch.rand(number, 2) * size
    extent = torch.exp(torch.rand(number, 2) * math.log(size))
    return torch.cat((centre - extent / 2, centre + extent / 2), 1)


def loop_reference(boxes: Tensor, labels: Tensor, shape: tuple[int, int, int], alpha: float, beta: float, stride: int
                   ) -> tuple[Tensor, Tensor, Tensor]:
    """One image, one object and one pixel after another, straight from the paper's formulas."""
    classes, height, width = shape
    heatmap, owner_box = torch.zeros(shape), torch.full((4, height, width), -1.)
    weight = torch.zeros(height, width)
    for k in sorted(range(len(boxes)), key=lambda i: -float((boxes[i, 2:] - boxes[i, :2]).prod())):
        x1, y1, x2, y2 = boxes[k].tolist()
        inside_w = min(max(x2 / stride, 0), width - 1) - min(max(x1 / stride, 0), width - 1)
        inside_h = min(max(y2 / stride, 0), height - 1) - min(max(y1 / stride, 0), height - 1)
        cx, cy = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
        for share in {alpha, beta}:
            rx, ry = int(inside_w / 2 * share), int(inside_h / 2 * share)
            sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
            kernel = {(x, y): math.exp(-(x - cx)**2 / (2 * sx**2) - (y - cy)**2 / (2 * sy**2))
                      for x in range(max(cx - rx, 0), min(cx + rx + 1, width))
                      for y in range(max(cy - ry, 0), min(cy + ry + 1, height))}
            if share == alpha:
                for (x, y), g in kernel.items():
                    heatmap[labels[k], y, x] = max(float(heatmap[labels[k], y, x]), g)
            if share == beta:
                total = sum(kernel.values())
                for (x, y), g in kernel.items():
                    owner_box[:, y, x] = boxes[k]
                    weight[y, x] = max(math.log(max((x2 - x1) * (y2 - y1), 1)), 0) * g / total
    return heatmap, owner_box, weight[None]


def test_equals_official_target_generator() -> None:
    """Property 1; four images, one of them without boxes, boxes reaching out of the image."""
    boxes = [torch.from_numpy(PARITY[f'gt_bboxes{i}']) for i in range(4)]
    labels = [torch.from_numpy(PARITY[f'gt_labels{i}']) for i in range(4)]
    targets = TTFGaussianTarget(legacy_plus_one=True)(boxes, labels, (3, 24, 24))
    box, weight = targets.dense()
    torch.testing.assert_close(targets.heatmap, torch.from_numpy(PARITY['target_heatmap']), atol=1e-6, rtol=0)
    torch.testing.assert_close(box, torch.from_numpy(PARITY['target_box']), atol=1e-6, rtol=0)
    torch.testing.assert_close(weight, torch.from_numpy(PARITY['target_weight']), atol=1e-6, rtol=0)


@pytest.mark.parametrize('alpha, beta', [(0.54, None), (0.54, 0.01), (0.3, 0.8)])
def test_equals_loop(alpha: float, beta: float | None) -> None:
    boxes = [random_boxes(n, 100) for n in (7, 0, 12)]
    labels = [torch.randint(0, 4, (len(b), )) for b in boxes]
    targets = TTFGaussianTarget(alpha=alpha, beta=beta)(boxes, labels, (4, 25, 26))
    dense = (targets.heatmap, *targets.dense())
    for i in range(3):
        reference = loop_reference(boxes[i], labels[i], (4, 25, 26), alpha, beta or alpha, 4)
        for ours, expected in zip(dense, reference):
            torch.testing.assert_close(ours[i], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize('box', [(0., 0., 20., 20.), (30., 40., 90., 60.), (3., 8., 9., 88.), (50., 50., 130., 130.)])
@pytest.mark.parametrize('plus_one', [False, True])
def test_isolated_object_weighs_log_area(box: tuple[float, ...], plus_one: bool) -> None:
    """Property 2: the same total at any place and shape, also when the image cuts the Gaussian."""
    targets = TTFGaussianTarget(legacy_plus_one=plus_one)([torch.tensor([box])], [torch.tensor([0])], (1, 25, 25))
    area = (box[2] - box[0] + plus_one) * (box[3] - box[1] + plus_one)
    assert float(targets.weights.sum()) == pytest.approx(math.log(area), rel=1e-5)


def test_recorded_total_weight() -> None:
    """The official code gives a lone box of 101x81 pixels a total of 9.0096."""
    box = torch.tensor([[20., 20., 120., 100.]])
    targets = TTFGaussianTarget(legacy_plus_one=True)([box], [torch.tensor([0])], (1, 32, 32))
    assert float(targets.weights.sum()) == pytest.approx(9.0096, abs=1e-4)


@pytest.mark.parametrize('area_weight, expected',
                         [('log', math.log(800)), ('sqrt', math.sqrt(800)), ('area', 800), ('none', 1)])
def test_area_weights(area_weight: str, expected: float) -> None:
    box = torch.tensor([[20., 20., 60., 40.]])
    targets = TTFGaussianTarget(area_weight=area_weight)([box], [torch.tensor([0])], (1, 25, 25))
    assert float(targets.weights.sum()) == pytest.approx(expected, rel=1e-5)


def test_smaller_box_wins_whatever_the_order() -> None:
    """Property 3."""
    boxes, labels = random_boxes(20, 100), torch.randint(0, 2, (20, ))
    small, large = torch.tensor([[44., 44., 60., 60.]]), torch.tensor([[2., 2., 98., 98.]])
    targets = TTFGaussianTarget()([torch.cat((small, large))], [torch.tensor([0, 0])], (1, 25, 25))
    assert targets.dense()[0][0, :, 13, 13].tolist() == small[0].tolist()
    first = TTFGaussianTarget()([boxes], [labels], (2, 25, 25))
    order = torch.randperm(20)
    second = TTFGaussianTarget()([boxes[order]], [labels[order]], (2, 25, 25))
    torch.testing.assert_close(first.heatmap, second.heatmap, atol=0, rtol=0)
    torch.testing.assert_close(first.dense(), second.dense(), atol=0, rtol=0)


def test_one_peak_an_object() -> None:
    """Property 4: exactly one 1 in the class channel, for boxes of every size with their centre inside."""
    for box in random_boxes(40, 100):
        targets = TTFGaussianTarget()([box[None]], [torch.tensor([1])], (3, 25, 25))
        assert targets.heatmap.eq(1).sum(dim=(0, 2, 3)).tolist() == [0, 1, 0]


def test_pixels_are_unique_and_weights_not_negative() -> None:
    boxes = [random_boxes(30, 100), torch.tensor([[5., 5., 5.2, 5.2], [7., 7., 7., 9.]])]
    targets = TTFGaussianTarget()(boxes, [torch.zeros(len(b), dtype=torch.long) for b in boxes], (1, 25, 25))
    assert len(targets.pixels.unique()) == len(targets.pixels)
    assert targets.weights.isfinite().all() and (targets.weights >= 0).all()


def test_flip_equivariance() -> None:
    """Property 7: with odd map widths and centres in the middle of a cell, flipping commutes exactly."""
    width = 4 * 25
    centre = torch.randint(2, 23, (6, 2)) * 4 + 2.
    extent = torch.rand(6, 2) * 6 + 4  # inside the image, where clamping does not enter
    boxes, labels = torch.cat((centre - extent, centre + extent), 1), torch.randint(0, 2, (6, ))
    flipped = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
    plain = TTFGaussianTarget()([boxes], [labels], (2, 25, 25))
    mirror = TTFGaussianTarget()([flipped], [labels], (2, 25, 25))
    torch.testing.assert_close(mirror.heatmap, plain.heatmap.flip(3), atol=1e-6, rtol=0)
    box, weight = plain.dense()
    mirrored_box, mirrored_weight = mirror.dense()
    torch.testing.assert_close(mirrored_weight, weight.flip(3), atol=1e-5, rtol=0)
    owned = weight.flip(3).expand(-1, 4, -1, -1) > 0
    expected = torch.stack((width - box[:, 2], box[:, 1], width - box[:, 0], box[:, 3]), 1).flip(3)
    torch.testing.assert_close(mirrored_box[owned], expected[owned], atol=1e-4, rtol=0)


def test_batch_equals_single_images() -> None:
    boxes = [random_boxes(n, 100) for n in (5, 1, 9)]
    labels = [torch.randint(0, 2, (len(b), )) for b in boxes]
    target = TTFGaussianTarget()
    together = target(boxes, labels, (2, 25, 25))
    for i in range(3):
        alone = target(boxes[i:i + 1], labels[i:i + 1], (2, 25, 25))
        torch.testing.assert_close(together.heatmap[i], alone.heatmap[0], atol=0, rtol=0)
        torch.testing.assert_close([m[i] for m in together.dense()], [m[0] for m in alone.dense()], atol=0, rtol=0)


def test_centre_outside_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', said.append)
    target = TTFGaussianTarget()
    outside = torch.tensor([[104., 4., 140., 40.], [-50., -50., -20., -20.]])
    for _ in range(2):
        targets = target([outside], [torch.tensor([0, 0])], (1, 25, 25))
    assert len(targets.pixels) == 0 and not targets.heatmap.any()
    assert len(said) == 1 and '2 of 2 boxes' in said[0]


def test_no_boxes_at_all() -> None:
    targets = TTFGaussianTarget()([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, (3, 8, 9))
    assert targets.heatmap.shape == (2, 3, 8, 9) and not targets.heatmap.any()
    assert targets.boxes.shape == (0, 4) and targets.pixels.shape == targets.weights.shape == (0, )


def test_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match="area_weight='cube' is unknown; choose one of log, sqrt, area, none"):
        TTFGaussianTarget(area_weight='cube')
    with pytest.raises(ValueError, match='alpha and beta must be positive'):
        TTFGaussianTarget(alpha=0)
