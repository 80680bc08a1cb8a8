"""The dataset base configs: complete, consistent, and overridable by a child as they promise."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, DefaultScope

from mmpapers.datasets.toytown.labels import DETECTION, PALETTE, SEMANTIC

pytestmark = pytest.mark.core

BASES = Path(__file__).parents[2] / 'configs/_base_'
DET = ('toytown_detection', 'bccd_detection', 'coco_detection')
SEG = ('toytown_segmentation', 'camvid', 'cityscapes', 'ade20k')
ROOTS = {'toytown_detection': 'data/toytown', 'bccd_detection': 'data/bccd', 'coco_detection': 'data/coco',
         'toytown_segmentation': 'data/toytown', 'camvid': 'data/camvid', 'cityscapes': 'data/cityscapes',
         'ade20k': 'data/ade/ADEChallengeData2016'}
CLASSES = {'toytown_detection': 4, 'bccd_detection': 3, 'coco_detection': 80, 'toytown_segmentation': 9, 'camvid': 11,
           'cityscapes': 19, 'ade20k': 150}


def load(name: str) -> Config:
    """A base config by its file name."""
    return Config.fromfile(BASES / f'datasets/{name}.py')


def test_every_base_config_is_tested():
    assert {path.stem for path in (BASES / 'datasets').glob('*.py')} >= set(ROOTS)


@pytest.mark.parametrize('name', [*DET, *SEG])
def test_parts_build(name):
    cfg = load(name)
    assert cfg.data_root.rstrip('/') == ROOTS[name]
    with DefaultScope.overwrite_default_scope('mmdet' if name in DET else 'mmseg'):
        for part in ('train', 'val', 'test'):
            loader = cfg[f'{part}_dataloader']
            assert loader.dataset.data_root == cfg.data_root
            assert loader.dataset.get('test_mode', False) == (part != 'train')
            built = [TRANSFORMS.build(step) for step in loader.dataset.pipeline]
            assert type(built[-1]).__name__ in ('PackDetInputs', 'PackSegInputs')
            dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
            assert len(dataset.metainfo['classes']) == CLASSES[name]
            if part != 'train':
                evaluator = cfg[f'{part}_evaluator']
                with METRICS.switch_scope_and_registry(None) as registry:
                    assert registry.get(evaluator.type)
                if name in DET:
                    assert evaluator.ann_file == cfg.data_root + loader.dataset.ann_file


def test_toytown_classes_are_those_of_the_generator():
    assert load('toytown_detection').metainfo.classes == DETECTION
    metainfo = load('toytown_segmentation').metainfo
    assert metainfo.classes == SEMANTIC
    assert tuple(map(tuple, metainfo.palette)) == PALETTE


@pytest.mark.parametrize('name', DET)
def test_child_overrides_the_input_size(name, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'''
_base_ = ['{BASES}/datasets/{name}.py', '{BASES}/runtimes/det.py']
_base_.train_dataloader.dataset.pipeline[2].scale = (256, 192)
_base_.test_dataloader.dataset.pipeline[1].scale = _base_.val_dataloader.dataset.pipeline[1].scale = (256, 192)
''')
    cfg = Config.fromfile(child)
    for part in ('train', 'val', 'test'):
        scales = [step.scale for step in cfg[f'{part}_dataloader'].dataset.pipeline if step.type == 'Resize']
        assert scales == [(256, 192)]
    assert cfg.default_scope == 'mmdet'


def test_bare_variable_reaches_nothing_as_the_docstring_warns(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{BASES}/datasets/bccd_detection.py'\nscale = (256, 192)\n")
    cfg = Config.fromfile(child)
    assert cfg.scale == (256, 192)
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (512, 384)


@pytest.mark.parametrize('name', SEG)
def test_crop_fits_the_scaled_image(name):
    cfg = load(name)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    height, width = steps['RandomCrop'].crop_size
    assert height <= steps['RandomResize'].scale[1] and width <= steps['RandomResize'].scale[0]
    assert cfg.crop_size == (height, width)


@pytest.mark.parametrize('name, splits', [('bccd_detection', ('train.json', 'val.json', 'test.json')),
                                          ('camvid', ('train.txt', 'val.txt', 'test.txt'))])
def test_real_sets_are_tested_on_their_test_split(name, splits):
    cfg = load(name)
    files = [Path(cfg[f'{part}_dataloader'].dataset.ann_file).name for part in ('train', 'val', 'test')]
    assert files == list(splits)
