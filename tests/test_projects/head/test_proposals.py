"""Proposals of dense heads: against mmdet's RPN and formulas written out, their places, the sampler."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.distill import DistillError
from mmpapers.projects.head.assistants import RCNN
from mmpapers.projects.head.proposals import Proposer, check_head, propose

pytestmark = pytest.mark.det

SIZES, STRIDES = [(6, 8), (3, 4)], [8, 16]
META = dict(img_shape=(44, 60))
CLASSES = 3


def _head(kind: str, **more: object) -> nn.Module:
    """A head of three classes and two levels."""
    init_default_scope('mmdet')
    anchors, square = (dict(type='AnchorGenerator', octave_base_scale=base, scales_per_octave=number, ratios=ratios,
                            strides=STRIDES) for base, number, ratios in ((3, 2, [.5, 1., 2.]), (4, 1, [1.])))
    known = dict(
        RetinaHead=dict(anchor_generator=anchors),
        FCOSHead=dict(strides=STRIDES, regress_ranges=((-1, 32), (32, 1e8)), norm_cfg=None, norm_on_bbox=True),
        ATSSHead=dict(anchor_generator=square, norm_cfg=None, loss_cls=dict(type='FocalLoss', use_sigmoid=True),
                      reg_decoded_bbox=True, bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2])),
        GFLHead=dict(anchor_generator=square, norm_cfg=None, reg_max=4,
                     loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True)))
    return MODELS.build(ConfigDict(dict(type=kind, num_classes=CLASSES, in_channels=4, feat_channels=4, stacked_convs=1,
                                        **known[kind], **more)))


def _outputs(head: nn.Module, images: int = 2) -> list[Tensor]:
    """Random predictions, flat as a tap gives them."""
    features = [torch.randn(images, 4, *size) for size in SIZES]
    with torch.no_grad():
        levels = [level for group in head(features) for level in group]
    return [level + torch.randn_like(level) for level in levels]


def test_equals_mmdets_rpn_on_the_largest_logit() -> None:
    head = _head('RetinaHead')
    outputs = _outputs(head)
    rpn = MODELS.build(ConfigDict(dict(
        type='RPNHead', in_channels=4, feat_channels=4, anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=3, scales_per_octave=2, ratios=[.5, 1., 2.], strides=STRIDES))))
    best = [level.unflatten(1, (-1, CLASSES)).max(2).values for level in outputs[:2]]
    cfg = ConfigDict(nms_pre=60, max_per_img=25, nms=dict(type='nms', iou_threshold=.7), min_bbox_size=0)
    expected = rpn.predict_by_feat(best, outputs[2:4], batch_img_metas=[META] * 2, cfg=cfg)
    found = propose(head, outputs, [META] * 2, nms_pre=60, max_per_img=25)
    for one, other in zip(expected, found, strict=True):
        assert len(other) == 25
        assert torch.equal(one.bboxes, other.bboxes)
        assert torch.equal(one.scores, other.scores)


def _formula(head: nn.Module, kind: str, outputs: list[Tensor], image: int, place: Tensor) -> Tensor:
    """The box of one place, from the formulas, without clipping."""
    level, y, x, anchor = place.tolist()
    stride = STRIDES[level]
    deltas = outputs[2 + level][image].unflatten(0, (6 if kind == 'RetinaHead' else 1, -1))[anchor, :, y, x]
    if kind == 'FCOSHead':
        centre = torch.tensor([x + .5, y + .5]) * stride
        distances = deltas * (stride if head.training else 1)
        return torch.cat([centre - distances[:2], centre + distances[2:]])
    base = head.prior_generator.base_anchors[level][anchor] + torch.tensor([x, y, x, y]) * stride
    centre, size = (base[:2] + base[2:]) / 2, base[2:] - base[:2]
    if kind == 'GFLHead':
        distances = (deltas.view(4, 5).softmax(1) * torch.arange(5.)).sum(1) * stride
        return torch.cat([centre - distances[:2], centre + distances[2:]])
    stds = torch.tensor([.1, .1, .2, .2]) if kind == 'ATSSHead' else torch.ones(4)
    deltas = deltas * stds
    centre, half = centre + deltas[:2] * size, size * deltas[2:].clamp(-4.1351666, 4.1351666).exp() / 2
    return torch.cat([centre - half, centre + half])


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('kind', ['RetinaHead', 'FCOSHead', 'ATSSHead', 'GFLHead'])
def test_a_place_decodes_to_its_box(kind: str, training: bool) -> None:
    head = _head(kind).train(training)
    outputs = _outputs(head)
    limit = torch.tensor([60., 44., 60., 44.])
    for image, found in enumerate(propose(head, outputs, [META] * 2, nms_pre=40, max_per_img=30)):
        assert 5 <= len(found) <= 30
        assert len(found.places.unique(dim=0)) == len(found)
        for box, score, place in zip(found.bboxes, found.scores, found.places):
            expected = _formula(head, kind, outputs, image, place).clamp(min=torch.zeros(4), max=limit)
            assert torch.allclose(box, expected, atol=1e-3)
            level, y, x, anchor = place.tolist()
            logits = outputs[level][image].unflatten(0, (-1, CLASSES))[anchor, :, y, x]
            assert torch.isclose(score, logits.max().sigmoid())


def _samples(boxes: Tensor) -> list:
    from mmdet.structures import DetDataSample
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=META)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
        samples.append(sample)
    return samples


def test_samples_carry_places_and_ground_truths_are_marked() -> None:
    head = _head('RetinaHead')
    outputs = _outputs(head)
    truths = torch.tensor([[4., 4., 30., 28.], [20., 10., 50., 40.]])
    rcnn = dict(RCNN, sampler=dict(RCNN['sampler'], num=24))
    proposer = Proposer(rcnn, dict(nms_pre=60, max_per_img=40))
    sampled = proposer(head, outputs, _samples(truths), torch.Generator().manual_seed(3))
    assert sampled.rois.shape == (48, 5)
    assert torch.equal(sampled.places[:, 0].float(), sampled.rois[:, 0])
    marked = ~sampled.dense
    assert torch.equal(sampled.places[marked, 1:], torch.full((4, 4), -1))
    assert torch.equal(sampled.rois[marked, 1:], truths.repeat(2, 1))
    limit = torch.tensor([60., 44., 60., 44.])
    for roi, place in zip(sampled.rois[sampled.dense], sampled.places[sampled.dense]):
        expected = _formula(head, 'RetinaHead', outputs, int(place[0]), place[1:])
        assert torch.allclose(roi[1:], expected.clamp(min=torch.zeros(4), max=limit), atol=1e-3)


def test_sampling_repeats_and_leaves_global_random_numbers_alone() -> None:
    head = _head('RetinaHead')
    outputs = _outputs(head)
    samples = _samples(torch.tensor([[4., 4., 30., 28.]]))
    proposer = Proposer(dict(RCNN, sampler=dict(RCNN['sampler'], num=8)), {})
    before = torch.get_rng_state()
    one, same, other = (proposer(head, outputs, samples, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.places, same.places)
    assert not torch.equal(one.places, other.places)


def test_gather_reads_the_places() -> None:
    head = _head('FCOSHead')
    outputs = _outputs(head)
    proposer = Proposer(RCNN, {})
    sampled = proposer(head, outputs, _samples(torch.tensor([[4., 4., 30., 28.]])), torch.Generator())
    maps = [torch.randn(2, 5, *size, requires_grad=True) for size in SIZES]
    rows = sampled.gather(maps)
    expected = torch.stack([maps[level][image, :, y, x] for image, level, y, x, _ in
                            sampled.places[sampled.dense].tolist()])
    assert torch.equal(rows, expected)
    rows.sum().backward()
    assert sum(int(level.grad.sum()) for level in maps) == rows.numel()


@pytest.mark.parametrize('truths', [0, 2])
def test_without_proposals(truths: int) -> None:
    head = _head('RetinaHead')
    outputs = _outputs(head)
    outputs[2:4] = [torch.full_like(level, -1e4) for level in outputs[2:4]]  # far outside: nothing left after clipping
    boxes = torch.tensor([[4., 4., 30., 28.], [20., 10., 50., 40.]])[:truths]
    sampled = Proposer(RCNN, {})(head, outputs, _samples(boxes), torch.Generator())
    assert sampled.rois.shape == (2 * truths, 5)
    assert not sampled.dense.any()
    assert sampled.gather([torch.randn(2, 5, *size) for size in SIZES]).shape == (0, 5)


def test_other_heads_are_refused() -> None:
    with pytest.raises(DistillError, match='RetinaHead, FCOSHead, ATSSHead or GFLHead'):
        check_head(nn.Conv2d(1, 1, 1))
    softmax = _head('RetinaHead', loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    with pytest.raises(DistillError, match='sigmoid'):
        check_head(softmax)
    for kind in ('RetinaHead', 'FCOSHead', 'ATSSHead', 'GFLHead'):
        assert check_head(_head(kind)) is None
