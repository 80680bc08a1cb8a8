"""SparsePointDetector: configs, backbone and head together, bad clouds."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet3d.models.detectors import VoteNet
from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

import mmpapers

pytestmark = pytest.mark.det3d
CONFIGS = Path(mmpapers.__file__).parents[1] / 'projects/sparsepoint/configs'


def build(name: str = 'sparsepoint_tiny-cpu', device: str = 'cpu', **head: Any) -> tuple[torch.nn.Module, Config]:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.bbox_head.update(head)
    with torch.device(device):
        return MODELS.build(cfg.model), cfg


def room(points: int = 256) -> Tensor:
    """A cloud (P, 4) with heights, on a grid that float32 can move without rounding."""
    cloud = torch.rand(points, 3) * torch.tensor([5., 4., 2.])
    cloud = (cloud * 256).round() / 256
    return torch.cat([cloud, cloud[:, 2:]], 1)


def batch(*clouds: Tensor, turned: bool = False) -> dict:
    samples = []
    for _ in clouds:
        sample = Det3DDataSample(metainfo=dict(box_type_3d=DepthInstance3DBoxes))
        boxes = torch.tensor([[1., 1, 0, 1, .5, 1, .4], [3., 2, 0, .5, .5, .5, 4.]])
        boxes[:, 6] *= turned
        sample.gt_instances_3d = InstanceData(bboxes_3d=DepthInstance3DBoxes(boxes), labels_3d=torch.tensor([2, 4]))
        samples.append(sample)
    return dict(inputs=dict(points=list(clouds)), data_samples=samples)


def test_published_configs() -> None:
    for name, classes, bins, points in (('scannet', 18, 0, 40000), ('sunrgbd', 10, 12, 20000)):
        model, cfg = build(f'sparsepoint_{name}', 'meta')
        assert isinstance(model, VoteNet) and len(model.bbox_head.stages) == 6
        assert (model.bbox_head.num_classes, model.bbox_head.num_dir_bins) == (classes, bins)
        assert model.bbox_head.classifiers[-1][-1].out_features == classes + 1 == len(cfg.class_names) + 1
        criterion = model.bbox_head.criterion
        assert criterion.giou == criterion.assigner.costs[2].giou == (bins == 0)
        assert cfg.train_dataloader.batch_size == 8 and cfg.num_points == points
        assert not model.bbox_head.test_cfg['use_nms']


def test_control_differs_by_the_head_only() -> None:
    ours, control = (Config.fromfile(CONFIGS / f'{name}_rooms-cpu.py') for name in ('sparsepoint', 'votenet'))
    assert ours.model.backbone == control.model.backbone and ours.model.backbone.fp_channels[-1][-1] == 64
    assert ours.model.bbox_head.num_proposals == control.model.bbox_head.vote_aggregation_cfg.num_point
    for key in ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'val_evaluator'):
        assert ours[key] == control[key], key


def test_step_and_prediction() -> None:
    model, _ = build()
    model.train()
    data = model.data_preprocessor(batch(room(), room()), True)
    total, terms = model.parse_losses(model(**data, mode='loss'))
    assert set(terms) == {'loss'} | {f'{d}loss_{n}' for d in ('d0.', '') for n in ('cls', 'center', 'size', 'iou')}
    total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    found = model.eval()(**data, mode='predict')
    assert len(found) == 2 and len(found[0].pred_instances_3d) <= 16
    assert (found[0].pred_instances_3d.scores_3d > .05).all()
    assert len(model(data['inputs'], data['data_samples'], mode='tensor')) == 2


def test_moving_the_room_moves_the_boxes() -> None:
    """Property 4, with the backbone; heights above the floor stay."""
    model, _ = build(test_cfg=None)
    model.eval()
    cloud, shift = room(), torch.tensor([16., -8., 4.])
    moved = cloud.clone()
    moved[:, :3] += shift
    one, other = (model(dict(points=[c]), mode='tensor')[-1] for c in (cloud, moved))
    torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.boxes[..., :3] + shift, other.boxes[..., :3], atol=1e-4, rtol=1e-4)


def test_turned_boxes_train() -> None:
    cfg = Config.fromfile(CONFIGS / 'sparsepoint_sunrgbd.py').model.bbox_head.criterion
    model, _ = build(num_dir_bins=12, criterion=cfg)
    losses = model.train()(**batch(room(), room(), turned=True), mode='loss')
    assert {'loss_dir_cls', 'loss_dir_res'} < set(losses) and all(torch.isfinite(v) for v in losses.values())
    found = model.eval()(**batch(room()), mode='predict')[0].pred_instances_3d
    assert found.bboxes_3d.with_yaw


@pytest.mark.parametrize(('clouds', 'message'), [
    ((256, 200), r'clouds of one size with points in them, got \[\(200, 4\), \(256, 4\)\]; .*PointSample'),
    ((0, ), r'got \[\(0, 4\)\]'),
])
def test_clouds_of_other_sizes(clouds: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()[0].extract_feat(dict(points=[room(n) for n in clouds]))


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_points_that_are_not_finite(value: float) -> None:
    broken = room()
    broken[7, 1] = value
    with pytest.raises(ValueError, match='cloud 1 of the batch has NaN or infinite values'):
        build()[0].extract_feat(dict(points=[room(), broken]))


def test_a_cloud_of_equal_points_and_one_far_away() -> None:
    same = torch.ones(256, 4)
    far = room() + torch.tensor([1e4, 1e4, 0, 0])
    losses = build()[0].train()(**batch(same, far), mode='loss')
    assert all(torch.isfinite(v) for v in losses.values())
