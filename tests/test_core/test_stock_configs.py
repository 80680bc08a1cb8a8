"""The table of stock configs: two families end to end, the fake batches, and a run that is continued."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmpapers.cli import stock_configs as stock
from mmpapers.cli import stock_data, stock_data3d
from mmpapers.cli.stock_table import write_table

pytestmark = pytest.mark.core
FAMILIES = {family.key: family for family in stock.representatives()}


def family(prefix: str) -> stock.Family:
    return next(value for key, value in FAMILIES.items() if key.startswith(prefix))


@pytest.mark.parametrize('prefix', ['mmdet/centernet/centernet_r18-dcnv2', 'mmseg/segformer/'])
def test_a_family_trains_a_step_and_predicts(prefix: str) -> None:
    result = stock.run_family(family(prefix), size=(64, 96))
    assert (result['train'], result['predict'], result['reason']) == ('yes', 'yes', '')
    assert result['seconds'] > 0


def test_every_model_family_has_one_config_that_exists() -> None:
    assert {f.toolbox for f in FAMILIES.values()} == {'mmdet', 'mmseg', 'mmdet3d'}
    assert all(f.config.is_file() for f in FAMILIES.values())
    assert len({f.config.parent for f in FAMILIES.values()}) > 160
    assert not any(f.name in stock.DATA_ONLY[f.toolbox] for f in FAMILIES.values())


def test_a_config_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    (tmp_path / 'a').mkdir()
    config = tmp_path / 'a/x.py'
    config.write_text("model = dict(type='mmdet.RetinaNot')\ndefault_scope = 'mmdet'\n", 'utf-8')
    result = stock.run_family(stock.Family('mmdet', 'a', config))
    assert result['train'] == result['predict'] == 'no'
    assert result['reason'].startswith('build: KeyError') and 'RetinaNot' in result['reason']
    config.write_text("custom_imports = dict(imports=['nosuchpackage.models'])\nmodel = dict(type='X')\n", 'utf-8')
    assert 'needs the package nosuchpackage' in stock.run_family(stock.Family('mmdet', 'a', config))['reason']


def test_a_process_that_hangs_or_dies_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, 'run_family', lambda *_: time.sleep(60))
    assert stock._in_process(family('mmdet/atss'), stock.SIZE, 0.2, 1)['reason'] == 'not finished after 0 s'
    monkeypatch.setattr(stock, 'run_family', lambda *_: os._exit(3))
    assert 'ended with code 3' in stock._in_process(family('mmdet/atss'), stock.SIZE, 20, 1)['reason']


def test_results_are_continued_and_the_table_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, table, ran = tmp_path / 'results.json', tmp_path / 'table.md', []
    rows = {key: {'train': 'yes', 'predict': 'yes', 'seconds': 3.0, 'reason': ''} for key in FAMILIES}
    missing = family('mmseg/fcn/').key
    del rows[missing]
    results.write_text(json.dumps(rows), 'utf-8')

    def run(wanted: stock.Family, *_: object) -> dict:
        ran.append(wanted.key)
        return {'train': 'no', 'predict': 'yes', 'seconds': 1.0, 'reason': 'train: needs the package x | y.'}

    monkeypatch.setattr(stock, '_in_process', run)
    assert stock.main(['--results', str(results), '--table', str(table)]) == 0
    assert ran == [missing] and json.loads(results.read_text('utf-8'))[missing]['train'] == 'no'
    text = table.read_text('utf-8')
    segmentors = sum(f.toolbox == 'mmseg' for f in FAMILIES.values())
    assert f'{segmentors - 1} of {segmentors} configs, from' in text
    assert f'| fcn | {missing.split("/")[2]} | no | yes | 1 | train: needs the package x / y. |' in text
    stock.main(['--results', str(results), '--table', str(table), '--failed'])
    assert ran == [missing] * 2


def test_the_section_of_one_toolbox_can_be_made_alone(tmp_path: Path) -> None:
    table = tmp_path / 'table.md'
    table.write_text('# Old head\n\n## mmseg\n\n| a | b |\n\n## mmdet3d\n\n| old |\n', 'utf-8')
    row = {'train': 'yes', 'predict': 'no', 'seconds': 30.0, 'step': 2.04, 'memory': 1.5, 'base': 0.7, 'reason': 'no'}
    write_table({'mmdet3d/second/a': row, 'mmdet3d/second/b': row | {'predict': 'yes', 'memory': None}}, table,
                (10, 20), {'x_y': (30, 40)}, ['dsdl'])
    text = table.read_text('utf-8')
    assert text.startswith('# Stock configs') and 'x 40x30' in text and '(dsdl)' in text and '| old |' not in text
    assert '## mmseg\n\n| a | b |\n\n## mmdet3d\n\n1 of 2 configs, from 1 of 1 families, run' in text
    assert 'the libraries take 0.7 GB' in text
    assert '| second | a | yes | no | 2.0 | 1.5 | no |\n| second | b | yes | yes | 2.0 |  | no |\n' in text


@pytest.mark.det3d
@pytest.mark.parametrize('name', ['votenet/votenet_8xb16_sunrgbd', 'pointnet2/pointnet2_ssg'])
def test_a_family_of_mmdet3d_trains_a_step_and_predicts(name: str) -> None:
    result = stock.run_family(family(f'mmdet3d/{name}'))
    assert (result['train'], result['predict'], result['reason']) == ('yes', 'yes', '')
    assert result['step'] > 0 and result['memory'] >= result['base'] > 0.1


def test_packages_that_mmdet3d_wants_are_named() -> None:
    error = AssertionError('Please follow `get_started.md` to install Torchsparse.`')
    assert stock._sentence('build', error) == ('build: needs torchsparse, which has no wheel and is built with a '
                                               'compiler, not in the pinned stack.')


@pytest.mark.det3d
def test_fake_clouds_have_what_the_configs_ask_for() -> None:
    def batch(prefix: str, training: bool = True) -> dict:
        cfg = Config.fromfile(family(f'mmdet3d/{prefix}').config)
        return (stock_data3d.training_batch if training else stock_data3d.test_batch)(cfg, (64, 96))

    kitti = batch('second')
    points, sample = kitti['inputs']['points'][0], kitti['data_samples'][0]
    boxes = sample.gt_instances_3d.bboxes_3d
    assert len(kitti['inputs']['points']) == 2 and 15000 < len(points) < 30000 and points.shape[1] == 4
    assert points.isfinite().all() and (points[:, :2] >= torch.tensor([-0.2, -40.2])).all()
    assert boxes.tensor.shape == (8, 7) and (boxes.points_in_boxes_part(points[:, :3]) >= 0).sum() > 300
    assert sample.gt_instances_3d.labels_3d.unique().tolist() == [0, 1, 2]
    assert batch('pointpillars/pointpillars_hv_fpn')['data_samples'][0].gt_instances_3d.bboxes_3d.tensor.shape == (8, 9)
    room = batch('votenet/votenet_8xb8_scannet')
    points, sample = room['inputs']['points'][0], room['data_samples'][0]
    assert points.shape == (40000, 4) and set(sample.gt_pts_seg.keys()) == {'pts_semantic_mask', 'pts_instance_mask'}
    owner = sample.gt_pts_seg.pts_instance_mask
    inside = sample.gt_instances_3d.bboxes_3d.enlarged_box(0.5).points_in_boxes_all(points[:, :3])
    assert (owner == 0).any() and inside[owner > 0].any(1).all()
    columns = [batch('paconv/paconv_ssg_8', training)['inputs']['points'][0].shape[1] for training in (True, False)]
    assert columns == [9, 6]
    mono = batch('smoke')['data_samples'][0]
    flat, centres = mono.gt_instances.bboxes, mono.gt_instances_3d.centers_2d
    assert (flat[:, 2:] > flat[:, :2]).all() and (mono.gt_instances_3d.depths > 5).all()
    assert ((centres >= flat[:, :2] - 1) & (centres <= flat[:, 2:] + 1)).all()
    projected = mono.gt_instances_3d.bboxes_3d.gravity_center @ torch.from_numpy(mono.cam2img)[:3, :3].T
    seen = ((projected[:, :2] / projected[:, 2:]) - centres).norm(dim=1) < 1e-2
    assert seen.sum() >= 4 and torch.allclose(projected[:, 2], mono.gt_instances_3d.depths)
    assert set(batch('mvxnet')['inputs']) == {'points', 'img'}


def test_fake_batches_have_the_shapes_of_real_ones() -> None:
    size = (64, 96)

    def batch(preprocessor: str, training: bool = True, **kwargs: object) -> dict:
        cfg = Config({'default_scope': 'mmdet', 'train_pipeline': [{'with_mask': True}], 'model': {
            'data_preprocessor': {'type': preprocessor, **kwargs}, 'bbox_head': {'num_classes': 5}}})
        return (stock_data.training_batch(cfg, size) if training else stock_data.test_batch(cfg, size))

    detection = batch('DetDataPreprocessor')
    sample = detection['data_samples'][0]
    assert [image.shape for image in detection['inputs']] == [(3, 64, 96)] * 2
    boxes, masks = sample.gt_instances.bboxes, torch.from_numpy(sample.gt_instances.masks.to_ndarray())
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] < torch.tensor([96, 64])).all()
    assert (boxes[:, 2:] > boxes[:, :2] + 4).all() and masks.flatten(1).any(1).all()
    assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) <= {0, 1, 80, 81}
    assert batch('TrackDataPreprocessor')['inputs'][0].shape == (2, 3, 64, 96)
    assert batch('TrackDataPreprocessor', False)['inputs'][0].shape == (1, 3, 64, 96)
    assert batch('TrackDataPreprocessor', use_det_processor=True)['inputs'][0].shape == (3, 64, 96)
    assert set(batch('MultiBranchDataPreprocessor')['inputs']) == {'sup', 'unsup_teacher', 'unsup_student'}
    assert batch('ReIDDataPreprocessor')['inputs'][0].shape == (4, 3, 256, 128)
