"""A generated folder: complete, readable by the toolboxes' own classes, resumable, and never over other files."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpapers.datasets.toytown import generate as module
from mmpapers.datasets.toytown.__main__ import main
from mmpapers.datasets.toytown.annotate import annotate
from mmpapers.datasets.toytown.generate import Plan, ToytownError, generate
from mmpapers.datasets.toytown.labels import DETECTION, SEMANTIC
from mmpapers.datasets.toytown.scene import sample_scene
from mmpapers.datasets.toytown.writers import depth_image

pytestmark = pytest.mark.core

BASES = Path(__file__).parents[2] / 'configs/_base_/datasets'
SIZE = (160, 96)
PLAN = Plan(train=3, val=2, seed=4, size=SIZE)
ARGUMENTS = ['--train', '3', '--val', '2', '--seed', '4', '--size', '160x96', '--workers', '1']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small complete set, made in this process."""
    out = tmp_path_factory.mktemp('toytown') / 'set'
    generate(out, PLAN, workers=1)
    return out


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def test_layout(folder):
    expected = {f'{kind}/{split}/{index:06d}.{suffix}' for split, count in (('train', 3), ('val', 2))
                for index in range(count) for kind, suffix in (('images', 'jpg'), ('labels', 'png'), ('depth', 'png'))}
    expected |= {f'{name}{split}.json' for split in ('train', 'val') for name in ('annotations/instances_', 'lanes/')}
    assert set(contents(folder)) == {*expected, 'toytown.json'}
    manifest = json.loads((folder / 'toytown.json').read_text())
    assert manifest['complete'] and manifest['parameters'] == PLAN.parameters()


def test_files_hold_the_labels(folder):
    scene = sample_scene(4, 'val', 1, SIZE)
    labels = annotate(scene)
    read = [cv2.imread(str(folder / kind / 'val/000001.png'), cv2.IMREAD_UNCHANGED) for kind in ('labels', 'depth')]
    np.testing.assert_array_equal(read[0], labels.semantic)
    assert read[1].dtype == np.uint16
    np.testing.assert_array_equal(read[1], depth_image(labels.depth))
    near = read[1] > 0
    assert np.abs(read[1][near] / 256 - labels.depth[near]).max() <= 0.5 / 256 + 1e-9


def test_tusimple_lines(folder):
    entries = [json.loads(line) for line in (folder / 'lanes/train.json').read_text().splitlines()]
    assert [entry['raw_file'] for entry in entries] == [f'images/train/{index:06d}.jpg' for index in range(3)]
    for entry in entries:
        assert (folder / entry['raw_file']).is_file()
        for lane in entry['lanes']:
            assert len(lane) == len(entry['h_samples'])
            assert all(column == -2 or 0 <= column < SIZE[0] for column in lane)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_truth_as_prediction_scores_one(folder, kind):
    truth = COCO(str(folder / 'annotations/instances_train.json'))
    guesses = [{**row, 'score': 1.0, 'segmentation': truth.annToRLE(row)} for row in truth.dataset['annotations']]
    run = COCOeval(truth, truth.loadRes(guesses), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert run.stats[0] == pytest.approx(1.0)
    for row in truth.dataset['annotations']:
        assert truth.annToMask(row).sum() == row['area']


@pytest.mark.det
def test_mmdet_reads_it(folder):
    cfg = Config.fromfile(BASES / 'toytown_detection.py')
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(folder)
    dataset.pipeline[1].with_mask = True
    with DefaultScope.overwrite_default_scope('mmdet'):
        loaded = DATASETS.build(dataset)
    assert loaded.metainfo['classes'] == DETECTION
    assert len(loaded) == 3
    sample = loaded[0]
    assert tuple(sample['inputs'].shape) == (3, 192, 320)
    instances = sample['data_samples'].gt_instances
    assert len(instances) > 0 and instances.masks.masks.any((1, 2)).all()


@pytest.mark.seg
def test_mmseg_reads_it(folder):
    cfg = Config.fromfile(BASES / 'toytown_segmentation.py')
    cfg.val_dataloader.dataset.data_root = str(folder)
    with DefaultScope.overwrite_default_scope('mmseg'):
        loaded = DATASETS.build(cfg.val_dataloader.dataset)
    assert loaded.metainfo['classes'] == SEMANTIC and len(loaded) == 2
    labels = annotate(sample_scene(4, 'val', 0, SIZE)).semantic
    np.testing.assert_array_equal(loaded[0]['data_samples'].gt_sem_seg.data[0].numpy(), labels)


def test_workers_and_counts_do_not_matter(folder, tmp_path):
    generate(tmp_path / 'two', PLAN, workers=2)
    assert contents(tmp_path / 'two') == contents(folder)
    generate(tmp_path / 'more', Plan(train=1, val=0, test=1, seed=4, size=SIZE), workers=1)
    for name in ('images/train/000000.jpg', 'labels/train/000000.png'):
        assert (tmp_path / 'more' / name).read_bytes() == (folder / name).read_bytes()
    ids = {row['id'] for split, root in (('train', folder), ('val', folder), ('test', tmp_path / 'more')) for row in
           json.loads((root / f'annotations/instances_{split}.json').read_text())['images']}
    assert len(ids) == 3 + 2 + 1


def test_complete_set_is_reused(folder, capsys):
    before = contents(folder)
    assert main([str(folder), *ARGUMENTS]) == 0
    assert 'reused' in capsys.readouterr().out
    assert contents(folder) == before


def test_other_parameters_are_refused(folder, capsys):
    before = contents(folder)
    assert main([str(folder), *ARGUMENTS[:-2], '--workers', '1', '--seed', '5']) == 2
    message = capsys.readouterr().err
    assert 'seed 4 -> 5' in message and '--overwrite' in message
    assert contents(folder) == before


def test_interrupted_run_resumes(folder, tmp_path, monkeypatch):
    out, made, make = tmp_path / 'set', [], module.make_scene

    def breaks(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[2:])
        make(*args)

    monkeypatch.setattr(module, 'make_scene', breaks)
    with pytest.raises(KeyboardInterrupt):
        generate(out, PLAN, workers=1)
    assert not json.loads((out / 'toytown.json').read_text())['complete']
    monkeypatch.setattr(module, 'make_scene', lambda *args: (made.append(args[2:]), make(*args)))
    told = []
    generate(out, PLAN, workers=1, report=told.append)
    assert told[0] == 'resuming: 2 of 5 scenes are there'
    assert len(made) == len(set(made)) == 5
    assert contents(out) == contents(folder)


def test_full_disk_leaves_no_half_file(folder, tmp_path, monkeypatch, capsys):
    write, written = Path.write_bytes, []

    def fills_up(self, data):
        written.append(self)
        if len(written) > 7:
            write(self, data[:len(data) // 2])
            raise OSError(28, 'No space left on device')
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', fills_up)
        assert main([str(tmp_path / 'set'), *ARGUMENTS]) == 1
    assert 'No space left' in capsys.readouterr().err
    assert len(contents(tmp_path / 'set')) == 7
    assert main([str(tmp_path / 'set'), *ARGUMENTS]) == 0
    assert contents(tmp_path / 'set') == contents(folder)


def test_foreign_folders_and_files_are_left_alone(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/photo.jpg').write_bytes(b'x')
    (tmp_path / 'note').write_text('y')
    for name, word in (('mine', 'not made by toytown'), ('note', 'is a file')):
        assert main([str(tmp_path / name), *ARGUMENTS, '--overwrite']) == 2
        assert word in capsys.readouterr().err
    assert contents(tmp_path) == {'mine/photo.jpg': hashlib.sha256(b'x').hexdigest(),
                                  'note': hashlib.sha256(b'y').hexdigest()}


def test_damaged_set_is_noticed_and_can_be_made_anew(folder, tmp_path, capsys):
    out = tmp_path / 'set'
    shutil.copytree(folder, out)
    (out / 'depth/val/000001.png').unlink()
    (out / 'annotations/instances_val.json').write_text('{}')
    assert main([str(out), *ARGUMENTS]) == 2
    assert '2 files are missing or changed' in capsys.readouterr().err
    (out / 'toytown.json').write_text('{"parameters"')
    assert main([str(out), *ARGUMENTS]) == 2
    assert 'cannot be read' in capsys.readouterr().err
    (out / 'notes.txt').write_text('mine')
    assert main([str(out), *ARGUMENTS, '--overwrite', '--preview', str(tmp_path / 'sheet.png')]) == 0
    (out / 'notes.txt').unlink()
    assert contents(out) == contents(folder)
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape == (3 * SIZE[1], 4 * SIZE[0], 3)


@pytest.mark.parametrize('arguments', [['--train', '0', '--val', '0'], ['--train', '-1'], ['--size', '32x32']])
def test_senseless_counts_and_sizes(tmp_path, arguments, capsys):
    assert main([str(tmp_path / 'set'), *arguments]) == 2
    assert capsys.readouterr().err.startswith('toytown: --')
    assert not (tmp_path / 'set').exists()


def test_senseless_words(tmp_path, capsys):
    for arguments, word in ((['--size', 'big'], 'WxH'), (['--workers', '0'], 'at least 1')):
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path), *arguments])
        assert stop.value.code == 2 and word in capsys.readouterr().err


def test_plan_errors_are_toytown_errors():
    with pytest.raises(ToytownError, match='--size'):
        Plan(size=(10, 10))
