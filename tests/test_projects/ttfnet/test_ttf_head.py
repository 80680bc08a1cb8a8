"""TTFHead: losses and decoding against recorded official values and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.losses import GaussianFocalLoss
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers.projects.ttfnet.ttf_head import TTFHead

pytestmark = pytest.mark.det
PARITY = np.load(Path(__file__).parents[2] / 'data/parity/ttfnet.npz')


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def ground_truth() -> list[InstanceData]:
    return [InstanceData(bboxes=recorded(f'gt_bboxes{i}'), labels=recorded(f'gt_labels{i}')) for i in range(4)]


def official_focal(probability: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss, divided by the number of ones, from the paper's equation."""
    positive = -(1 - probability)**2 * probability.log() * (target == 1)
    negative = -probability**2 * (1 - target)**4 * (1 - probability).log() * (target < 1)
    return (positive + negative).sum() / max(int((target == 1).sum()), 1)


def test_losses_equal_official() -> None:
    head = TTFHead(num_classes=3, in_channels=8, legacy_plus_one=True)
    losses = head.loss_by_feat(recorded('heatmap'), recorded('wh'), ground_truth(), [{}] * 4)
    torch.testing.assert_close(losses['loss_heatmap'], recorded('loss_heatmap'), atol=0, rtol=1e-5)
    torch.testing.assert_close(losses['loss_bbox'], recorded('loss_wh')[0], atol=0, rtol=1e-5)


def test_default_counts_no_plus_one() -> None:
    """The default differs from the official number by the box convention alone."""
    args = (recorded('heatmap'), recorded('wh'), ground_truth(), [{}] * 4)
    plain = TTFHead(num_classes=3, in_channels=8).loss_by_feat(*args)
    legacy = TTFHead(num_classes=3, in_channels=8, legacy_plus_one=True).loss_by_feat(*args)
    assert plain['loss_heatmap'] == legacy['loss_heatmap']
    assert not torch.isclose(plain['loss_bbox'], legacy['loss_bbox'], rtol=1e-3)


@pytest.mark.parametrize('peaks', [0, 3])
def test_gaussian_focal_loss_is_the_official_one(peaks: int) -> None:
    """Property 5, with and without positives."""
    target = torch.rand(2, 3, 6, 6) * 0.99
    target.view(-1)[:peaks] = 1
    probability = torch.rand(2, 3, 6, 6).clamp(1e-4, 1 - 1e-4)
    ours = GaussianFocalLoss(alpha=2, gamma=4)(probability, target, avg_factor=target.eq(1).sum().clamp(min=1))
    torch.testing.assert_close(ours, official_focal(probability, target), atol=0, rtol=1e-5)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_decode_equals_official(layout: torch.memory_format) -> None:
    head = TTFHead(num_classes=3, in_channels=8, legacy_plus_one=True, test_cfg={'max_per_img': 20, 'score_thr': 0.5})
    meta = [{'img_shape': (96, 96), 'scale_factor': (1., 1.)}] * 4
    maps = [recorded(name).contiguous(memory_format=layout) for name in ('heatmap', 'wh')]
    for i, result in enumerate(head.predict_by_feat(*maps, meta)):
        ours = torch.cat((result.bboxes, result.scores[:, None], result.labels[:, None]), 1)
        torch.testing.assert_close(ours, recorded(f'det{i}'), atol=1e-4, rtol=1e-5)


def test_perfect_prediction_decodes_to_ground_truth() -> None:
    """Property 6: centres on the grid, boxes of several sizes and shapes, scaled back to the original image."""
    boxes = torch.tensor([[4., 8., 36., 40.], [50., 20., 70., 92.], [60., 2., 92., 10.]])
    labels = torch.tensor([0, 2, 1])
    heatmap, wh = torch.full((1, 3, 24, 24), -12.), torch.zeros(1, 4, 24, 24)
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
        x, y = int((x1 + x2) / 8), int((y1 + y2) / 8)
        heatmap[0, label, y, x] = 8
        wh[0, :, y, x] = torch.tensor([4 * x - x1, 4 * y - y1, x2 - 4 * x, y2 - 4 * y])
    head = TTFHead(num_classes=3, in_channels=8)
    meta = [{'img_shape': (96, 96), 'scale_factor': (0.5, 2.)}]
    result, = head.predict_by_feat(heatmap, wh, meta, rescale=True)
    order = result.labels.argsort()
    expected = (boxes * torch.tensor([2., 0.5, 2., 0.5]))[labels.argsort()]
    assert result.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(result.bboxes[order], expected, atol=1e-4, rtol=0)


def test_perfect_prediction_has_no_loss() -> None:
    """Exact distances cost nothing, wherever in the object's Gaussian they are predicted."""
    head = TTFHead(num_classes=1, in_channels=8)
    box = torch.tensor([[8., 12., 72., 60.]])
    gt = [InstanceData(bboxes=box, labels=torch.tensor([0]))]
    y, x = torch.meshgrid(torch.arange(24.) * 4, torch.arange(24.) * 4, indexing='ij')
    wh = torch.stack((x - box[0, 0], y - box[0, 1], box[0, 2] - x, box[0, 3] - y))[None]
    peak = torch.full((1, 1, 24, 24), -12.)
    peak[0, 0, 9, 10] = 12
    losses = head.loss_by_feat(peak, wh, gt, [{}])
    assert float(losses['loss_bbox']) == pytest.approx(0, abs=1e-5)
    assert float(losses['loss_heatmap']) < 1e-3
    assert float(head.loss_by_feat(peak, wh + 4, gt, [{}])['loss_bbox']) > 0.1


def test_clips_and_drops() -> None:
    head = TTFHead(num_classes=2, in_channels=8, test_cfg={'score_thr': 0.3, 'max_per_img': 1000})
    heatmap, wh = torch.full((2, 2, 8, 8), -3.), torch.full((2, 4, 8, 8), 50.)
    heatmap[1, 1, 2, 6] = 1
    meta = [{'img_shape': (30, 28)}] * 2
    first, second = head.predict_by_feat(heatmap, wh, meta)
    assert len(first) == 0 and first.bboxes.shape == (0, 4)
    assert second.bboxes.tolist() == [[0., 0., 28., 30.]] and second.labels.tolist() == [1]


def test_image_without_boxes_still_trains_the_heat_map() -> None:
    head = TTFHead(num_classes=2, in_channels=8, heatmap_channels=4, wh_channels=4)
    head.init_weights()
    outs = head((torch.randn(1, 8, 6, 6), ))
    gt = [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))]
    losses = head.loss_by_feat(*outs, gt, [{}])
    sum(losses.values()).backward()
    assert losses['loss_bbox'].item() == 0 and losses['loss_heatmap'].item() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_inputs_are_left_alone_in_half_precision() -> None:
    """The sigmoid works out of place and in float32."""
    head = TTFHead(num_classes=3, in_channels=8)
    heatmap = recorded('heatmap').bfloat16()
    before = heatmap.clone()
    loss = head.loss_by_feat(heatmap, recorded('wh').bfloat16(), ground_truth(), [{}] * 4)['loss_heatmap']
    assert torch.equal(before, heatmap) and loss.dtype == torch.float32


def test_initialisation() -> None:
    head = TTFHead(num_classes=4, in_channels=64)
    head.init_weights()
    assert head.heatmap[-1].bias.sigmoid().tolist() == pytest.approx([0.01] * 4)
    assert head.heatmap[0].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.wh[0].conv.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert head.wh[-1].bias.tolist() == [1.0] * 4
    legacy = TTFHead(num_classes=4, legacy_plus_one=True)
    legacy.init_weights()
    assert not legacy.wh[-1].bias.any()


@pytest.mark.parametrize('plus_one, start, moves', [(False, 0.01, False), (False, 16.0, True), (True, 0.01, True)])
def test_where_boxes_start(plus_one: bool, start: float, moves: bool) -> None:
    """Why they start large: the GIoU of a nearly empty box hardly changes with its sides, unless pixels count +1."""
    head = TTFHead(num_classes=1, legacy_plus_one=plus_one)
    wh = torch.full((1, 4, 24, 24), start, requires_grad=True)
    gt = [InstanceData(bboxes=torch.tensor([[8., 12., 72., 60.]]), labels=torch.tensor([0]))]
    head.loss_by_feat(torch.zeros(1, 1, 24, 24), wh, gt, [{}])['loss_bbox'].backward()
    assert (float(wh.grad.sum(dim=(2, 3)).abs().min()) > 1e-3) == moves


def test_two_maps_are_refused() -> None:
    with pytest.raises(ValueError, match='TTFHead reads one map, got 2; set model.neck to mmpapers.TTFNeck'):
        TTFHead(num_classes=1, in_channels=8)((torch.zeros(1, 8, 4, 4), ) * 2)
