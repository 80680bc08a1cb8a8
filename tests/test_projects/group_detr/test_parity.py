"""Matches, losses and gradients of all layers equal those of detrex's matcher and criterion on the same predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.layers import set_matching
from mmpapers.layers.query_sets import QuerySet, QuerySets
from mmpapers.projects.group_detr.group_detr import _grouped

pytestmark = pytest.mark.det
SHAPE = (200, 320)


@pytest.fixture(scope='module')
def recorded() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[2] / 'data/parity/group_detr.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != 'provenance'}


@pytest.fixture(params=['ConditionalDETRHead', 'DABDETRHead', 'DeformableDETRHead'])
def head(request: pytest.FixtureRequest, recorded: dict[str, Tensor]) -> nn.Module:
    """A group-wise head, costs and losses 2/5/2, that takes its hidden states for (logits, boxes)."""
    init_default_scope('mmdet')
    classes = recorded['logits'].shape[-1]
    costs = [dict(type='FocalLossCost', weight=2.), dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
             dict(type='IoUCost', iou_mode='giou', weight=2.)]
    built = MODELS.build(dict(
        type=request.param, num_classes=classes, embed_dims=8,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2., alpha=.25, loss_weight=2.),
        loss_bbox=dict(type='L1Loss', loss_weight=5.), loss_iou=dict(type='GIoULoss', loss_weight=2.),
        train_cfg=ConfigDict(assigner=dict(type='HungarianAssigner', match_costs=costs))))
    built.__class__ = _grouped(type(built))
    built.forward = lambda states, references: (states[..., :classes], states[..., classes:])
    return built


@pytest.mark.parametrize('case', ['usual', 'crowded', 'empty'])
def test_matches_losses_and_gradients(case: str, head: nn.Module, recorded: dict[str, Tensor],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things differ: detrex divides by labels where mmdet divides by pairs, and it sums groups without labels."""
    groups, counts = int(recorded['groups']), recorded[f'{case}_counts'].tolist()
    logits, boxes = (recorded[name].clone().requires_grad_() for name in ('logits', 'boxes'))
    samples = []
    for image, count in enumerate(counts):
        sample = DetDataSample(metainfo=dict(img_shape=SHAPE))
        scale = torch.tensor([*SHAPE[::-1], *SHAPE[::-1]])
        sample.gt_instances = InstanceData(
            bboxes=bbox_cxcywh_to_xyxy(recorded['objects'][image, :count]) * scale,
            labels=recorded['labels'][image, :count])
        samples.append(sample)
    matched, solve = [], set_matching.match
    monkeypatch.setattr(set_matching, 'match', lambda *args: matched.append(solve(*args)) or matched[-1])
    queries = logits.shape[2] // groups
    others = (None, None) if 'Deformable' in type(head).__name__ else ()
    losses = head.loss(torch.cat([logits, boxes], -1), boxes.detach()[0, ..., :2], *others, batch_data_samples=samples,
                       query_sets=QuerySets([QuerySet(f'group{index}', queries) for index in range(groups)]))
    assert torch.equal(matched[0].reshape(logits.shape[:3]) - 1, recorded[f'{case}_matched'])

    pairs = sum(min(count, queries) for count in counts)
    factor = sum(counts) / pairs if pairs else 1 / groups
    assert (case == 'usual') == (factor == 1)
    for name, value in losses.items():
        layer, _, term = name.rpartition('.')
        theirs = term.replace('cls', 'class').replace('iou', 'giou') + layer.replace('d', '_')
        torch.testing.assert_close(value, factor * recorded[f'{case}_{theirs}'], rtol=1e-4, atol=1e-5, msg=name)
    assert len(losses) == 3 * len(logits)
    gradients = torch.autograd.grad(sum(losses.values()), (logits, boxes))
    for gradient, name in zip(gradients, ('logits', 'boxes')):
        torch.testing.assert_close(gradient, factor * recorded[f'{case}_gradient_{name}'], rtol=1e-3, atol=1e-5)
