"""Numbers recorded from the official H-Deformable-DETR: losses of both branches, and the whole transformer."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySet, QuerySets
from mmpapers.projects.h_detr.h_detr import HybridDeformableDETR
from mmpapers.projects.h_detr.heads import HybridDeformableDETRHead

pytestmark = pytest.mark.det
FOLDER = Path(__file__).parents[2] / 'data/parity'
TINY = Path(__file__).parents[3] / 'projects/h_detr/configs/h-deformable-detr_tiny-cpu.py'
PARITY = np.load(FOLDER / 'h_detr.npz')


def recorder() -> ModuleType:
    """The module that made the recording, for what it was made with."""
    spec = importlib.util.spec_from_file_location('h_detr_record', FOLDER / 'h_detr_record.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORD = recorder()


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def samples(case: str, sizes: list[tuple[int, int]], pad: tuple[int, int]) -> list[DetDataSample]:
    """The recorded labels, in pixels."""
    made = []
    for i, (height, width) in enumerate(sizes):
        centre, size = recorded(f'{case}/gt_boxes{i}').chunk(2, -1)
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1) * torch.tensor([width, height] * 2)
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width),
                                             batch_input_shape=pad, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=recorded(f'{case}/gt_labels{i}'))
        made.append(sample)
    return made


def our_name(official: str) -> str:
    """``loss_ce_0_one2many`` is called ``d0.loss_cls_one2many`` in mmdet."""
    kind, place, part = re.fullmatch(r'loss_(ce|bbox|giou)(_\d|_enc)?(_one2many)?', official).groups()
    name = 'loss_' + dict(ce='cls', bbox='bbox', giou='iou')[kind] + (part or '')
    return name if not place else f'enc_{name}' if place == '_enc' else f'd{place[1:]}.{name}'


def check_losses(case: str, found: dict[str, Tensor]) -> None:
    expected = {our_name(key.rsplit('/')[-1]): recorded(key) for key in PARITY.files if key.startswith(f'{case}/loss/')}
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach().squeeze(), value, rtol=2e-5, atol=2e-5,
                                   msg=lambda m, n=name: f'{n}: {m}')


def model_config(**changes: object) -> ConfigDict:
    init_default_scope('mmdet')
    cfg = Config.fromfile(TINY)
    cfg.merge_from_dict(dict(model=changes))
    return cfg.model


@pytest.mark.parametrize('case', ['plenty', 'overflow'])
def test_losses_of_both_branches(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``train_hybrid`` with K = 4, lambda = 0.5; in ``overflow`` 4 x 9 labels meet 20 queries."""
    cfg = model_config()
    head: HybridDeformableDETRHead = MODELS.build(dict(
        cfg.bbox_head, num_classes=RECORD.CLASSES, train_cfg=cfg.train_cfg, share_pred_layer=False, num_pred_layer=4,
        as_two_stage=True, k_one2many=4, weight_one2many=.5))
    monkeypatch.setattr(head, 'forward', lambda hidden, boxes: (hidden, torch.stack(boxes)))
    scores, boxes = (torch.cat([recorded(f'{case}/{name}{part}') for part in ('', '_one2many')], 2)
                     for name in ('scores', 'boxes'))
    sets = QuerySets([QuerySet('one2one', 20), QuerySet('one2many', 20)])
    batch = samples(case, [(100, 120)] * len(RECORD.COUNTS[case]), (100, 120))
    check_losses(case, head.loss(scores, list(boxes), batch, sets, enc_outputs_class=None, enc_outputs_coord=None))


def detector() -> HybridDeformableDETR:
    """Ours with the recorded detector's sizes and weights."""
    tiny = RECORD.TINY
    deformable = dict(embed_dims=256, num_heads=8, num_levels=2, num_points=2)
    ffn = dict(embed_dims=256, feedforward_channels=64)
    cfg = model_config(
        num_queries=tiny['own'], num_one2many=tiny['further'], num_feature_levels=2,
        neck=dict(in_channels=list(tiny['channels']), out_channels=256, norm_cfg=dict(num_groups=32), num_outs=2),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)),
        decoder=dict(num_layers=tiny['layers'], layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8), cross_attn_cfg=deformable, ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=128),
        bbox_head=dict(embed_dims=256, num_classes=RECORD.CLASSES, k_one2many=tiny['k']))
    model = MODELS.build(cfg)
    model.backbone = nn.Identity()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(RECORD.weights(name, tuple(parameter.shape)))
    return model


def test_whole_detector() -> None:
    """Two stages, mixed selection, look forward twice, a padded image: predictions, losses and all gradients."""
    model = detector()
    batch = samples('detector', RECORD.TINY['sizes'], (64, 64))
    maps = [recorded('detector/map0'), recorded('detector/map1')]
    found = model.forward_transformer(model.neck(maps), batch)
    scores, boxes = model.bbox_head(found['hidden_states'], found['references'])
    for ours, key in ((scores, 'scores'), (boxes, 'boxes')):
        own, further = ours[-1].detach().split([RECORD.TINY['own'], RECORD.TINY['further']], 1)
        torch.testing.assert_close(own, recorded(f'detector/{key}'), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(further, recorded(f'detector/{key}_one2many'), atol=2e-5, rtol=1e-4)
    losses = model.bbox_head.loss(**found, batch_data_samples=batch)
    check_losses('detector', losses)
    sum(losses.values()).backward()
    norms = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    assert set(norms) == {key.rsplit('/')[-1] for key in PARITY.files if key.startswith('detector/gradient/')}
    for name, norm in norms.items():
        torch.testing.assert_close(norm, recorded(f'detector/gradient/{name}'), rtol=1e-3, atol=1e-4,
                                   msg=lambda m, n=name: f'{n}: {m}')
    model.eval()  # with the one-to-one queries alone, as the official ``evaluate`` does
    with torch.no_grad():
        found = model.forward_transformer(model.neck(maps), batch)
        scores, boxes = model.bbox_head(found['hidden_states'], found['references'])
    torch.testing.assert_close(scores[-1], recorded('detector/eval_scores'), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(boxes[-1], recorded('detector/eval_boxes'), atol=2e-5, rtol=1e-4)
