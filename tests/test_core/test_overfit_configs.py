"""Configs that overfit real frames: complete, without augmentation, and their small networks train and predict."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS, MODELS, TRANSFORMS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers.cli.check import check_config

pytestmark = pytest.mark.det3d
FOLDER = Path(__file__).parents[2] / 'configs/lidar/overfit'
CONFIGS = sorted(FOLDER.glob('*.py'))
STILL = {'LoadPointsFromFile', 'LoadAnnotations3D', 'GlobalAlignment', 'PointSample', 'PointsRangeFilter',
         'ObjectRangeFilter', 'ObjectNameFilter', 'Pack3DDetInputs'}  # none of them moves a box

every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


def test_each_data_set_has_one():
    assert {path.stem.split('_')[1] for path in CONFIGS} == {
        'kitti-frames-cpu', 'nuscenes-frame-cpu', 'argoverse2-frames-cpu', 'scannet-frame-cpu', 'sunrgbd-frame-cpu'}


def frames(loader: dict) -> dict:
    """The data set of a loader, without what repeats it."""
    return loader['dataset'].get('dataset', loader['dataset'])


@every_config
def test_tests_on_what_it_trains_on(path):
    cfg = Config.fromfile(path)
    assert not [finding for finding in check_config(cfg, data=False) if finding.level != 'info']
    trained, tested = frames(cfg.train_dataloader), frames(cfg.test_dataloader)
    assert trained.data_root == tested.data_root and trained.data_root.endswith('_sample/')
    assert trained.ann_file.replace('train', 'val') == tested.ann_file
    assert trained.get('data_prefix') == tested.get('data_prefix')
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        for dataset in (trained, tested):
            assert {step.type for step in dataset.pipeline} <= STILL
            assert all(TRANSFORMS.build(step) for step in dataset.pipeline)
        assert METRICS.build(cfg.test_evaluator)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].total_steps == cfg.default_hooks.checkpoint.interval
    assert {module.momentum for module in build(cfg).modules() if hasattr(module, 'running_var')} == {0.1}


def build(cfg: Config) -> torch.nn.Module:
    """The config's model with initial weights."""
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def made_batch(cfg: Config) -> dict:
    """A cloud of 3000 points within the range, or a room, with a box of each of the first three classes."""
    from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample, LiDARInstance3DBoxes, PointData
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    outdoors = 'point_cloud_range' in cfg
    low, high = torch.tensor(cfg.point_cloud_range if outdoors else [-3., -3, 0, 3, 3, 2.5]).view(2, 3)
    load = frames(cfg.train_dataloader).pipeline[0]
    width = (load.use_dim if isinstance(load.use_dim, int) else len(load.use_dim)) + load.get('shift_height', False)
    cloud = torch.cat([low + (high - low) * draw(3000, 3), draw(3000, width - 3)], 1)
    size = torch.tensor([4., 1.7, 1.5]) if outdoors else torch.tensor([1.2, 0.8, 0.9])
    boxes = torch.cat([low + (high - low) * (0.3 + 0.4 * draw(3, 3)), size.expand(3, 3), 6 * draw(3, 1)], 1)
    if frames(cfg.train_dataloader).type == 'NuScenesDataset':
        boxes = torch.cat([boxes, draw(3, 2)], 1)  # velocities
    kind = LiDARInstance3DBoxes if outdoors else DepthInstance3DBoxes
    sample = Det3DDataSample(metainfo=dict(box_type_3d=kind, sample_idx=0))
    sample.gt_pts_seg = PointData()
    sample.gt_instances_3d = InstanceData(bboxes_3d=kind(boxes, box_dim=boxes.shape[1]), labels_3d=torch.arange(3))
    return dict(inputs=dict(points=[cloud, cloud.flip(0)]), data_samples=[sample, sample])


@every_config
def test_trains_a_step_and_predicts(path):
    cfg = Config.fromfile(path)
    model, batch = build(cfg), made_batch(cfg)
    total, terms = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    total.backward()
    assert torch.isfinite(total) and total > 0, terms
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without, f'no finite gradient reaches {without}'
    model.eval()
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch, False), mode='predict')
    assert len(predictions) == 2
    for prediction in predictions:
        found = prediction.pred_instances_3d
        assert len(found.bboxes_3d) == len(found.scores_3d) and found.bboxes_3d.tensor.isfinite().all()
