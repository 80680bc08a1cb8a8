"""The table of stock configs: two families end to end, the fake batches, and a run that is continued."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmpapers.cli import stock_configs as stock
from mmpapers.cli import stock_data

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
    assert {f.toolbox for f in FAMILIES.values()} == {'mmdet', 'mmseg'}
    assert all(f.config.is_file() for f in FAMILIES.values())
    assert len({f.config.parent for f in FAMILIES.values()}) > 130
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
    assert f'{len(FAMILIES) - 1} of {len(FAMILIES)} configs, from' in text
    assert f'| fcn | {missing.split("/")[2]} | no | yes | 1 | train: needs the package x / y. |' in text
    stock.main(['--results', str(results), '--table', str(table), '--failed'])
    assert ran == [missing] * 2


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
