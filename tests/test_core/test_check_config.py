"""The config checker: keys, variables, types and arguments, paths, heads; no data is read."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpapers.cli.check import check_config, main, report
from mmpapers.cli.checks.finding import Finding, assignment, nearest
from mmpapers.cli.checks.paths import nearest_path
from mmpapers.cli.checks.signatures import signature

pytestmark = pytest.mark.core

BASE = '''
default_scope = 'mmdet'
data_root = 'data/none/'
scale = (64, 64)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True), dict(type='PackDetInputs')]
metainfo = dict(classes=('a', 'b'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CocoDataset', data_root=data_root, ann_file='train.json', metainfo=metainfo,
                 data_prefix=dict(img='images/'), pipeline=train_pipeline))
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=64, num_outs=5),
    bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=64,
                   loss_cls=dict(type='FocalLoss', use_sigmoid=True)))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
param_scheduler = [dict(type='MultiStepLR', milestones=[8], gamma=0.1)]
default_hooks = dict(timer=dict(type='IterTimerHook'), checkpoint=dict(type='CheckpointHook', interval=1))
'''


@pytest.fixture
def check(tmp_path: Path):
    """Write a child of BASE and return what the checker finds above ``info``, by level and key."""
    (tmp_path / 'base.py').write_text(BASE)

    def run(child: str = '', base: str = BASE) -> dict[str, Finding]:
        (tmp_path / 'base.py').write_text(base)
        (tmp_path / 'child.py').write_text(f"_base_ = ['./base.py']\n{child}\n")
        found = check_config(Config.fromfile(tmp_path / 'child.py'), data=False)
        return {finding.where: finding for finding in found if finding.level != 'info'}
    return run


def test_nothing_is_found_in_a_correct_config(check) -> None:
    assert check() == {}


@pytest.mark.parametrize('wrong, right', [('param_schedulr', 'param_scheduler'), ('default_hook', 'default_hooks'),
                                          ('custom_hook', 'custom_hooks'), ('optim_wraper', 'optim_wrapper')])
def test_misspelt_top_level_key(check, wrong: str, right: str) -> None:
    found = check(f'{wrong} = []')
    assert found[wrong].level == 'error'
    assert f'`{right}`' in found[wrong].message


def test_used_variable_is_no_mistake_and_unused_is_only_a_remark(check) -> None:
    assert check('num = 3\ntrain_cfg = dict(max_epochs=num)') == {}
    cfg = Config(dict(my_number=3, model=dict(type='RetinaNet')))
    assert [f.level for f in check_config(cfg, data=False) if f.where == 'my_number'] == ['warning']


def test_keys_of_the_old_toolboxes(check) -> None:
    found = check('optimizer_config = dict(grad_clip=None)')
    assert 'optim_wrapper = dict(clip_grad=...)' in found['optimizer_config'].fix


def test_variable_that_reaches_nothing(check) -> None:
    found = check("train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]")
    assert list(found) == ['train_pipeline']
    assert 'child.py:2 reaches nothing' in found['train_pipeline'].message
    assert 'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))' in found['train_pipeline'].fix


def test_variable_that_reaches_nothing_through_another_variable(check) -> None:
    found = check('scale = (32, 32)')
    assert 'train_dataloader.dataset.pipeline.2.scale' in found['scale'].message
    assert 'pipeline=train_pipeline' in found['scale'].fix


@pytest.mark.parametrize('rest', [
    'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))',
    '_base_.train_dataloader.dataset.pipeline = train_pipeline',
    "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]))"])
def test_variable_that_arrives(check, rest: str) -> None:
    assert check(f"train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]\n{rest}") == {}


def test_base_variables_count_as_use(check, tmp_path: Path) -> None:
    assert check('my_root = {{_base_.data_root}}\ntrain_dataloader = dict(dataset=dict(data_root=my_root))') == {}


@pytest.mark.parametrize('child, where, expected', [
    ('model = dict(bbox_head=dict(num_class=2))', 'model.bbox_head.num_class', '`num_classes`'),
    ('model = dict(backbone=dict(dept=18))', 'model.backbone.dept', '`depth`'),
    ('model = dict(bbox_head=dict(loss_cls=dict(gama=2.0)))', 'model.bbox_head.loss_cls.gama', '`gamma`'),
    ('optim_wrapper = dict(optimizer=dict(weight_deca=0.1))', 'optim_wrapper.optimizer.weight_deca', '`weight_decay`'),
    ('optim_wrapper = dict(clip_gradd=None)', 'optim_wrapper.clip_gradd', '`clip_grad`'),
    ('log_processor = dict(window_sizes=1)', 'log_processor.window_sizes', '`window_size`'),
    ('train_dataloader = dict(batchsize=2)', 'train_dataloader.batchsize', '`batch_size`'),
    ('train_dataloader = dict(dataset=dict(annfile="x"))', 'train_dataloader.dataset.annfile', '`ann_file`'),
    ('train_cfg = dict(max_epoch=2)', 'train_cfg.max_epoch', '`max_epochs`'),
    ('env_cfg = dict(cudnn_bench=True)', 'env_cfg.cudnn_bench', '`cudnn_benchmark`'),
    ("param_scheduler = [dict(type='MultiStepLR', milestone=[8], milestones=[8])]", 'param_scheduler.0.milestone',
     '`milestones`')])
def test_unknown_argument(check, child: str, where: str, expected: str) -> None:
    found = check(child)
    assert list(found) == [where]
    assert found[where].level == 'error' and expected in found[where].message


@pytest.mark.parametrize('child, where, expected', [
    ("model = dict(backbone=dict(_delete_=True, type='ResNett', depth=18))", 'model.backbone.type', '`ResNet`'),
    ("optim_wrapper = dict(optimizer=dict(type='SDG'))", 'optim_wrapper.optimizer.type', '`SGD`'),
    ("custom_hooks = [dict(type='EmaHook')]", 'custom_hooks.0.type', '`EMAHook`'),
    ("custom_hooks = [dict(type='RetinaNet')]", 'custom_hooks.0.type', 'in MODELS'),
    ("custom_hooks = [dict(type='nopackage.Hook')]", 'custom_hooks.0.type', "needs the package 'nopackage'"),
    ("visualizer = dict(type='SegLocalVisualizer')", 'visualizer.type', '`mmseg.SegLocalVisualizer`')])
def test_unknown_type(check, child: str, where: str, expected: str) -> None:
    found = check(child)
    assert list(found) == [where]
    assert found[where].level == 'error' and expected in found[where].message


def test_near_miss_of_a_class_that_takes_anything_is_a_warning(check) -> None:
    found = check('default_hooks = dict(checkpoint=dict(_delete_=True, type="CheckpointHook", intervall=1, foo=2))')
    assert {where: f.level for where, f in found.items()} == {'default_hooks.checkpoint.intervall': 'warning'}


def test_missing_required_argument(check) -> None:
    found = check("train_pipeline = [dict(type='RandomCrop'), dict(type='PackDetInputs')]\n"
                  'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))')
    assert '`crop_size`' in found['train_dataloader.dataset.pipeline.0'].message


def test_heads_against_classes(check) -> None:
    found = check("train_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b', 'c'))))")
    assert found['model.bbox_head.num_classes'].fix == 'model = dict(bbox_head=dict(num_classes=3))'
    nested = check("model = dict(_delete_=True, type='CascadeRCNN', roi_head=dict(type='CascadeRoIHead', bbox_head=["
                   "dict(type='Shared2FCBBoxHead', num_classes=80), dict(type='Shared2FCBBoxHead', num_classes=2)]))")
    assert nested['model.roi_head.bbox_head.0.num_classes'].fix == 'model.roi_head.bbox_head.0.num_classes=2'
    assert 'model.roi_head.bbox_head.1.num_classes' not in nested


def test_panoptic_head_against_classes(check) -> None:
    found = check("model = dict(_delete_=True, type='Mask2Former', panoptic_head=dict(type='Mask2FormerHead', "
                  'in_channels=[64], feat_channels=8, out_channels=8, num_things_classes=80, num_stuff_classes=0))')
    assert 'num_things_classes` is 80, but' in found['model.panoptic_head.num_things_classes'].message
    assert 'model.panoptic_head.num_stuff_classes' not in found


@pytest.mark.parametrize('classes', ["'cell'", "('cell')"])
def test_string_for_classes(check, classes: str) -> None:
    found = check(f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={classes})))')
    where = 'train_dataloader.dataset.metainfo.classes'
    assert found[where].level == 'error'
    assert found[where].fix.endswith("classes=('cell', ))))")


def test_upper_case_classes(check) -> None:
    found = check("train_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True, CLASSES=('a', 'b'))))")
    assert found['train_dataloader.dataset.metainfo.CLASSES'].level == 'error'


def test_evaluator_reads_another_file(check) -> None:
    found = check("val_dataloader = dict(dataset=dict(type='CocoDataset', data_root='d', ann_file='val.json', "
                  "metainfo=dict(classes=('a', 'b'))))\n"
                  "val_evaluator = dict(type='CocoMetric', ann_file='d/test.json')")
    assert found['val_evaluator.ann_file'].fix == "val_evaluator = dict(ann_file='d/val.json')"


def test_unpadded_segmentor() -> None:
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(batch_size=1),
                      model=dict(type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor'),
                                 backbone=dict(type='ResNetV1c', depth=18), decode_head=dict(type='FCNHead'))))
    assert any('`size` or `size_divisor`' in f.message for f in check_config(cfg, data=False))


def test_signature_follows_super_calls() -> None:
    from mmdet.models import RetinaHead
    from mmengine.hooks import EMAHook
    from mmengine.model import ExponentialMovingAverage
    takes = signature(RetinaHead)
    assert not takes.open
    assert {'num_classes', 'in_channels', 'stacked_convs', 'feat_channels', 'loss_cls', 'init_cfg'} <= set(takes.names)
    assert {'num_classes', 'in_channels'} == takes.required
    assert signature(EMAHook).open  # hands **kwargs to whichever class ema_type names
    assert set(signature(ExponentialMovingAverage).names) == {'model', 'momentum', 'interval', 'device',
                                                              'update_buffers'}


class _Parent:
    def __init__(self, a, b=1, c=2):
        self.values = a, b, c


class _Child(_Parent):
    def __init__(self, d=0, **kwargs):
        self.e = kwargs.pop('e', None)
        super().__init__(d, c=3, **kwargs)


def test_signature_without_what_the_child_passes_itself() -> None:
    assert set(signature(_Child).names) == {'d', 'e', 'b'}
    assert signature(_Child).required == frozenset()


def test_stock_configs_are_clean() -> None:
    import mmdet
    import mmseg
    for package, name in ((mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
                          (mmdet, 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'),
                          (mmdet, 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'),
                          (mmdet, 'albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py'),
                          (mmseg, 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
                          (mmseg, 'mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py')):
        cfg = Config.fromfile(Path(package.__file__).parent / '.mim/configs' / name, import_custom_modules=False)
        assert [f for f in check_config(cfg, data=False) if f.level != 'info'] == [], name


def test_nearest_path(tmp_path: Path) -> None:
    (tmp_path / 'data/bccd').mkdir(parents=True)
    (tmp_path / 'data/bccd/train.json').touch()
    assert nearest_path(tmp_path / 'data/bcdd/trian.json') == tmp_path / 'data/bccd/train.json'
    assert nearest_path(tmp_path / 'data/bccd/qqqq') == tmp_path / 'data/bccd'


def test_text_helpers() -> None:
    assert assignment(('a', 'b', 'c'), '1') == 'a = dict(b=dict(c=1))'
    assert assignment(('a', 0, 'c'), '1') == 'a.0.c=1'
    assert nearest('rbc', ['RBC', 'WBC'])[0] == 'RBC'


def test_command_line(tmp_path: Path, capsys) -> None:
    (tmp_path / 'c.py').write_text(BASE + 'default_hook = dict()\n')
    assert main([str(tmp_path / 'c.py'), '--no-data', '--json']) == 1
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == dict(level='error', where='default_hook',
                           message='No runner reads `default_hook`; did you mean `default_hooks`?',
                           fix='default_hooks = ...  # instead of default_hook')
    assert main([str(tmp_path / 'c.py'), '--no-data', '--cfg-options', 'default_hook._delete_=True']) == 1
    assert '\033' not in capsys.readouterr().out
    assert main([str(tmp_path / 'd.py')]) == 2
    assert 'c.py' in capsys.readouterr().err
    (tmp_path / 'c.py').write_text(BASE)
    assert main([str(tmp_path / 'c.py'), '--no-data']) == 0


def test_report_counts_and_colours() -> None:
    rows = [Finding('error', 'a', 'Wrong.', 'a = 1'), Finding('warning', 'b', 'Odd.')]
    text = report(rows, colour=False)
    assert text.endswith('1 error, 1 warning') and '-> a = 1' in text
    assert '\033[1;31merror' in report(rows, colour=True)
    assert report([]) == 'No mistake found.'
