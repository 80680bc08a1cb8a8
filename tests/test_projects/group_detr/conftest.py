"""Small detectors of every base, with and without groups, and labelled images."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

import mmpapers

REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]
TYPES = dict(conditional='ConditionalDETR', dab='DABDETR', patterns='DABDETR', deformable='DeformableDETR',
             two_stage='DeformableDETR', dino='DINO')
QUERIES, CLASSES = 6, 3
Batch = tuple[Tensor, list[DetDataSample]]


@functools.cache
def _config(kind: str) -> Config:
    """The base detector of a kind, as small as mmdet allows: three kinds work with 256 channels only."""
    files = dict(conditional='configs/detr/conditional-detr_r18_bccd-cpu.py',
                 deformable='configs/detr/deformable-detr_r18_bccd-cpu.py',
                 two_stage='configs/detr/deformable-detr_r18_bccd-cpu.py',
                 dino='projects/group_detr/configs/group-dino_tiny-cpu.py')
    cfg = Config.fromfile(REPOSITORY / files.get(kind, 'projects/group_detr/configs/group-dab-detr_tiny-cpu.py')).model
    width = 32 if kind in ('dab', 'patterns', 'deformable') else 256
    layer = dict(ffn_cfg=dict(embed_dims=width, feedforward_channels=64))
    small = dict(
        backbone=dict(base_channels=8, stem_channels=8), neck=dict(out_channels=width),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=dict(embed_dims=width), **layer)),
        decoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=dict(embed_dims=width),
                                                  cross_attn_cfg=dict(embed_dims=width), **layer)),
        positional_encoding=dict(num_feats=width // 2), bbox_head=dict(embed_dims=width, num_classes=CLASSES),
        num_queries=QUERIES, test_cfg=dict(max_per_img=QUERIES))
    small['neck']['in_channels'] = [16, 32, 64]
    if kind in ('conditional', 'dab', 'patterns'):
        small['neck']['in_channels'] = [32]
        small['backbone'].update(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1))  # the fourth has no use
    if kind == 'deformable':
        small['neck']['norm_cfg'] = dict(num_groups=4)
    if kind == 'two_stage':
        small['as_two_stage'] = True
    if kind == 'patterns':
        small.update(num_patterns=2, with_random_refpoints=True)
    cfg = Config(dict(model=cfg.to_dict()))
    cfg.model.pop('num_query_groups', None)
    cfg.merge_from_dict(dict(model=small))
    return cfg


@pytest.fixture(params=TYPES)
def kind(request: pytest.FixtureRequest) -> str:
    """Every base, DAB-DETR also with patterns and random anchors."""
    return request.param


@functools.cache
def _built(kind: str, init: bool, settings: str) -> nn.Module:
    """A detector; what it has of the base is equal to the bit for all settings."""
    init_default_scope('mmdet')
    cfg = copy.deepcopy(_config(kind))
    cfg.merge_from_dict(dict(model=json.loads(settings)))
    cfg.model.type = f'mmpapers.Group{TYPES[kind]}' if 'num_query_groups' in cfg.model else TYPES[kind]
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    if init:
        torch.manual_seed(2)
        model.init_weights()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():  # boxes that differ from their references
            for parameter in model.parameters():
                parameter += .02 * torch.randn(parameter.shape, generator=generator)
    return model.train()


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """Make a detector of a kind; without ``num_query_groups`` mmdet's own."""
    def build(kind: str, init: bool = True, **settings) -> nn.Module:
        return copy.deepcopy(_built(kind, init, json.dumps(settings)))
    return build


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Make images, the second one padded, with so many labels each."""
    def draw(*counts: int) -> Batch:
        generator = torch.Generator().manual_seed(5)
        samples = []
        for index, count in enumerate(counts):
            shape = (48, 80) if index == 1 else (64, 96)
            corner = torch.rand(count, 2, generator=generator) * torch.tensor([40., 20.])
            boxes = torch.cat([corner, corner + 10 + 15 * torch.rand(count, 2, generator=generator)], 1)
            sample = DetDataSample(metainfo=dict(
                img_id=index, img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=(64, 96),
                scale_factor=(1., 1.)))
            labels = torch.randint(0, CLASSES, (count, ), generator=generator)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            samples.append(sample)
        return torch.randn(len(counts), 3, 64, 96, generator=generator), samples
    return draw


@pytest.fixture
def losses() -> Callable[..., dict[str, Tensor]]:
    """The losses of a training step whose random numbers are always the same."""
    def compute(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(7)
        return model.loss(batch[0], copy.deepcopy(batch[1]))
    return compute


@pytest.fixture
def decoded() -> Callable[..., list[Tensor]]:
    """What the decoder gives in a training step, cut into groups: for each (layers, images, queries, channels)."""
    def compute(model: nn.Module, batch: Batch) -> list[Tensor]:
        torch.manual_seed(7)
        found = model.forward_transformer(model.extract_feat(batch[0]), copy.deepcopy(batch[1]))
        return list(found['query_sets'].split(found['hidden_states'], 2).values())
    return compute
