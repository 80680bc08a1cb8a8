"""Every config of every project parses, is clean for the checker and builds; the tiny ones train a step."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpapers.cli.check import check_config

pytestmark = pytest.mark.core


def _load(path: Path) -> Config:
    return Config.fromfile(path)


def test_parses_and_is_clean(config: Path) -> None:
    cfg = _load(config)
    assert cfg.default_scope in ('mmdet', 'mmseg', 'mmdet3d')
    findings = [f for f in check_config(cfg, data=False) if f.level != 'info']
    assert not findings, '\n'.join(f'{f.where}: {f.message}' for f in findings)


def test_builds(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = _load(config)
    cfg.model.pop('init_cfg', None)
    init_default_scope(cfg.default_scope)
    linspace = torch.linspace  # Swin reads its drop path rates from one while it is built, and shapes have no numbers
    monkeypatch.setattr(torch, 'linspace', lambda *args, **kwargs: linspace(*args, **{'device': 'cpu', **kwargs}))
    with torch.device('meta') if _meta_builds(config, cfg) else torch.device('cpu'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 0


def _meta_builds(config: Path, cfg: Config) -> bool:
    """Published models are built as shapes, which takes no time and no memory; tiny ones and those of mmdet3d for real.

    mmdet3d's voxel layers and anchors compute with numbers when they are built.
    """
    return not config.stem.endswith('_tiny-cpu') and cfg.default_scope != 'mmdet3d'


def test_tiny_trains_a_step(tiny: Path) -> None:
    cfg = _load(tiny)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    batch = _BATCHES[cfg.default_scope](cfg)
    data = model.data_preprocessor(batch, True)
    total, terms = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total), terms
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f'no gradient reaches {without}'
    infinite = [n for n, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p.grad).all()]
    assert not infinite, f'not finite: {infinite}'
    model.eval()
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch, False), mode='predict')
    assert len(predictions) == 2


def _detection_batch(cfg: Config) -> dict:
    """Two 64 x 96 images with three boxes each."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    generator = torch.Generator().manual_seed(1)
    samples = []
    for i in range(2):
        top_left = torch.rand(3, 2, generator=generator) * torch.tensor([50., 25.])
        boxes = torch.cat([top_left, top_left + 20 + 15 * torch.rand(3, 2, generator=generator)], 1)
        sample = DetDataSample(metainfo=dict(img_id=i, img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96),
                                             batch_input_shape=(64, 96), scale_factor=(1., 1.), flip=False))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, 2, (3,), generator=generator))
        samples.append(sample)
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def _segmentation_batch(cfg: Config) -> dict:
    """Two 64 x 96 images with labels of the head's classes."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    height, width = cfg.model.data_preprocessor.get('size') or (64, 96)
    generator = torch.Generator().manual_seed(1)
    head = cfg.model.decode_head
    classes = (head[-1] if isinstance(head, list) else head)['num_classes']
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width), flip=False,
                                             pad_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, height, width), generator=generator))
        samples.append(sample)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def _lidar_batch(cfg: Config) -> dict:
    """Two clouds of 800 points in the config's range with three boxes of its classes each."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.structures import InstanceData
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor(cfg.point_cloud_range, dtype=torch.float).view(2, 3)
    samples, clouds = [], []
    for i in range(2):
        place = low + (high - low) * (.2 + .6 * torch.rand(3, 3, generator=generator))
        place[:, 2] = -1.7
        turn = 6 * torch.rand(3, 1, generator=generator)
        boxes = torch.cat([place, torch.tensor([[3.9, 1.6, 1.5]]).expand(3, -1), turn], 1)
        sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, sample_idx=i))
        sample.gt_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes),
                                              labels_3d=torch.arange(3) % len(cfg.class_names))
        samples.append(sample)
        clouds.append(torch.cat([low + (high - low) * torch.rand(800, 3, generator=generator),
                                 torch.rand(800, 1, generator=generator)], 1))
    return dict(inputs=dict(points=clouds), data_samples=samples)


def _room_batch(cfg: Config) -> dict:
    """Two rooms of 800 points with heights above the floor, and three boxes of the config's classes each."""
    from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample
    from mmengine.structures import InstanceData
    generator = torch.Generator().manual_seed(1)
    samples, clouds = [], []
    for i in range(2):
        boxes = torch.cat([5 * torch.rand(3, 2, generator=generator) - 2.5, torch.zeros(3, 1),
                           .4 + torch.rand(3, 3, generator=generator), torch.zeros(3, 1)], 1)
        sample = Det3DDataSample(metainfo=dict(box_type_3d=DepthInstance3DBoxes, sample_idx=i))
        sample.gt_instances_3d = InstanceData(bboxes_3d=DepthInstance3DBoxes(boxes),
                                              labels_3d=torch.arange(3) % len(cfg.class_names))
        samples.append(sample)
        cloud = torch.rand(800, 3, generator=generator) * torch.tensor([6., 6., 2.5]) - torch.tensor([3., 3., 0.])
        clouds.append(torch.cat([cloud, cloud[:, 2:]], 1))
    return dict(inputs=dict(points=clouds), data_samples=samples)


def _cloud_batch(cfg: Config) -> dict:
    """Outdoor configs have a range, indoor ones take the room as it is."""
    return _lidar_batch(cfg) if 'point_cloud_range' in cfg else _room_batch(cfg)


_BATCHES = {'mmdet': _detection_batch, 'mmseg': _segmentation_batch, 'mmdet3d': _cloud_batch}
