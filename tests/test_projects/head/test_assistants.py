"""Assistants: against mmdet's own RoI head and FCOS head, the features that they give, weights taken over."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill import DistillError
from mmpapers.distill.connectors import Connector
from mmpapers.projects.head.assistants import RCNN, DenseAssistant, RCNNAssistant, mse, nothing, site, total
from mmpapers.projects.head.proposals import Sampled

pytestmark = pytest.mark.det

STRIDES = (8, 16)
EXTRACTOR = dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0))
BBOX_HEAD = dict(
    type='Shared2FCBBoxHead', fc_out_channels=16, roi_feat_size=3, num_classes=2,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2]),
    loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='L1Loss'))


def _levels(width: int = 8) -> list[Tensor]:
    return [torch.randn(2, width, 64 // stride, 64 // stride) for stride in STRIDES]


def _samples() -> list:
    from mmdet.structures import DetDataSample
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[4., 4., 30., 28.], [20., 10., 50., 40.]]),
                                           labels=torch.tensor([0, 1]))
        samples.append(sample)
    return samples


def _assistant(width: int = 8, **more: object) -> RCNNAssistant:
    init_default_scope('mmdet')
    return MODELS.build(dict(type='mmpapers.RCNNAssistant', num_classes=2, in_channels=width, strides=STRIDES,
                             bbox_head={**BBOX_HEAD, **more}, bbox_roi_extractor=EXTRACTOR))


def _ours(monkeypatch: pytest.MonkeyPatch, roi_head: nn.Module, levels: list[Tensor]) -> tuple[dict, Sampled]:
    """Losses of mmdet's RoI head, and the boxes that it sampled."""
    found, original = [], roi_head.bbox_loss
    monkeypatch.setattr(roi_head, 'bbox_loss', lambda x, results: found.append(results) or original(x, results))
    corner = torch.rand(30, 2) * 30
    proposals = [InstanceData(bboxes=torch.cat([corner, corner + 5 + 25 * torch.rand(30, 2)], 1)) for _ in range(2)]
    losses = roi_head.loss(levels, proposals, _samples())
    from mmdet.structures.bbox import bbox2roi
    rois = bbox2roi([result.priors for result in found[0]])
    return losses, Sampled(found[0], rois, torch.zeros(len(rois), 5, dtype=torch.long))


def test_rcnn_assistant_equals_mmdets_roi_head(monkeypatch: pytest.MonkeyPatch) -> None:
    assistant, levels = _assistant(), _levels()
    roi_head = MODELS.build(ConfigDict(dict(
        type='StandardRoIHead', bbox_head=dict(BBOX_HEAD, in_channels=8),
        bbox_roi_extractor=dict(EXTRACTOR, out_channels=8, featmap_strides=STRIDES), train_cfg=RCNN, test_cfg=None)))
    roi_head.bbox_head.load_state_dict(assistant.bbox_head.state_dict())
    expected, sampled = _ours(monkeypatch, roi_head, levels)
    losses, hidden = assistant(levels, sampled)
    assert set(losses) == set(expected) == {'loss_cls', 'loss_bbox', 'acc'}
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    assert torch.equal(total(losses), expected['loss_cls'] + expected['loss_bbox'])
    first, second = assistant.bbox_head.shared_fcs
    rows = F.relu(first(assistant.bbox_roi_extractor(levels, sampled.rois).flatten(1)))
    assert torch.allclose(hidden[0], rows, atol=1e-6)
    assert torch.allclose(hidden[1], F.relu(second(rows)), atol=1e-6)
    assert len(hidden) == 2 and float(hidden[1].min()) == 0.


def test_a_narrow_neck_is_widened_and_few_levels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = _assistant(4, in_channels=8), _assistant(8)
    assert isinstance(wide.widen, nn.Identity)
    levels = [*_levels(4), torch.full((2, 4, 1, 1), float('nan'))]
    wide.copy_from(narrow.bbox_head)
    sampled = Sampled([], torch.tensor([[0., 4., 4., 30., 28.]]), torch.zeros(1, 5, dtype=torch.long))
    monkeypatch.setattr(type(narrow.bbox_head), 'loss_and_target', lambda *args: dict(loss_bbox=dict(loss_cls=0.)))
    hidden = narrow(levels, sampled)[1]
    expected = wide([narrow.widen(level) for level in levels[:2]], sampled)[1]
    assert all(torch.equal(one, other) for one, other in zip(hidden, expected, strict=True))


def test_no_box_is_no_loss_and_every_parameter_has_a_gradient() -> None:
    assistant = _assistant(4, in_channels=8)
    losses, hidden = _run_empty(assistant)
    assert float(total(losses)) == 0.
    assert hidden[1].shape == (0, 16)
    total(losses).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in assistant.parameters())


def _run_empty(assistant: RCNNAssistant) -> tuple[dict, list[Tensor]]:
    """The assistant on images without boxes."""
    from mmengine.registry import TASK_UTILS
    sampler = TASK_UTILS.build(dict(RCNN['sampler']))
    assigner = TASK_UTILS.build(dict(RCNN['assigner']))
    nobody = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    priors = InstanceData(priors=torch.zeros(0, 4))
    results = [sampler.sample(assigner.assign(priors, nobody), priors, nobody) for _ in range(2)]
    return assistant(_levels(4), Sampled(results, torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.long)))


def test_dense_assistant_equals_mmdets_fcos() -> None:
    init_default_scope('mmdet')
    assistant = MODELS.build(dict(type='mmpapers.DenseAssistant', num_classes=2, in_channels=8, strides=STRIDES))
    head, levels = assistant.bbox_head, _levels()
    expected = head.loss(tuple(levels), _samples())
    losses, towers = assistant(levels, _samples())
    assert {name: float(value) for name, value in losses.items()} == {k: float(v) for k, v in expected.items()}
    assert torch.equal(total(losses), sum(expected.values()))
    for level, tower in zip(levels, towers, strict=True):
        for layer in head.cls_convs:
            level = layer(level)
        assert torch.equal(tower, level)


def test_ranges_of_fcos_follow_the_strides() -> None:
    init_default_scope('mmdet')
    usual = MODELS.build(dict(type='FCOSHead', num_classes=2, in_channels=8, feat_channels=8, norm_cfg=None))
    found = DenseAssistant(num_classes=2, in_channels=8, strides=(8, 16, 32, 64, 128)).bbox_head
    assert tuple(found.regress_ranges) == tuple(usual.regress_ranges)
    assert [stride[0] for stride in found.prior_generator.strides] == [8, 16, 32, 64, 128]


def test_weights_that_do_not_fit_are_named() -> None:
    assistant = _assistant()
    other = MODELS.build(ConfigDict(dict(BBOX_HEAD, in_channels=8, num_classes=5)))
    with pytest.raises(DistillError, match=r'fc_cls.weight \(3, 16\) against \(6, 16\).*transfer=False'):
        RCNNAssistant(2, 8, STRIDES, BBOX_HEAD, EXTRACTOR).copy_from(other)
    twin = _assistant()
    twin.copy_from(assistant.bbox_head)
    assert all(torch.equal(a, b) for a, b in zip(twin.bbox_head.state_dict().values(),
                                                 assistant.bbox_head.state_dict().values()))
    with pytest.raises(DistillError, match='no shared_fcs'):
        RCNNAssistant(2, 8, STRIDES, dict(type='BBoxHead', roi_feat_size=3), EXTRACTOR)
    with pytest.raises(DistillError, match='no class convolution'):
        DenseAssistant(2, 8, STRIDES, dict(type='YOLOXHead', feat_channels=8, strides=STRIDES))


def test_mse_and_nothing() -> None:
    link = Connector((2, 4), (2, 6), 'conv')
    student, teacher = torch.randn(5, 4), torch.randn(5, 6)
    expected = ((student @ link.layer.weight.T + link.layer.bias - teacher) ** 2).sum() / 30
    assert torch.isclose(mse(link, student, teacher), expected)
    empty = mse(link, student[:0], teacher[:0])
    empty.backward()
    assert float(empty) == 0. and link.layer.weight.grad is not None
    assert float(nothing(link)) == 0.


def test_site() -> None:
    init_default_scope('mmdet')
    head = MODELS.build(dict(type='RetinaHead', num_classes=7, in_channels=4, feat_channels=4))
    assert site(head, [torch.zeros(1, 4, 1, 1)], 4) == dict(num_classes=7, in_channels=4, strides=[8, 16, 32, 64])
    head = MODELS.build(dict(type='FCOSHead', num_classes=7, in_channels=4, feat_channels=4, norm_cfg=None))
    assert site(head, [torch.zeros(1, 4, 1, 1)])['strides'] == [4, 8, 16, 32, 64]
