"""``inspect_model``: paths, classes, output shapes and parameters of a dry run."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmpapers.cli.inspect_model import (
    build_model,
    forward,
    input_shape,
    inspect,
    main,
    table,
)
from mmpapers.dry_run import Row, fake_batch, recorded, shapes

pytestmark = pytest.mark.core

DETECTOR = dict(
    type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, out_indices=(1, 2),
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=2),
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
                   anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1,
                                         ratios=[1.0], strides=[8, 16])),
    test_cfg=dict(nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
SEGMENTOR = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 64)),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(type='FCNHead', in_channels=32, channels=4, num_convs=1, in_index=3, num_classes=5),
    test_cfg=dict(mode='whole'))


def config(model: dict, scope: str) -> Config:
    """A config with a model and nothing else."""
    return Config(dict(default_scope=scope, model=model))


def test_detector_shapes_and_parameters() -> None:
    rows, mode = inspect(config(DETECTOR, 'mmdet'), (32, 64))
    by_path = {row.path: row for row in rows}
    assert mode == 'tensor'
    assert by_path['backbone'].outputs == ['[(1, 8, 4, 8), (1, 16, 2, 4)]']
    assert by_path['bbox_head.retina_cls'].outputs == ['(1, 3, 4, 8)', '(1, 3, 2, 4)']
    assert by_path['bbox_head'].outputs  # called as .forward(), which hooks would miss
    assert by_path['neck.lateral_convs.0.conv'].params == 8 * 8 + 8
    assert by_path[''].params == sum(by_path[name].params for name in ('backbone', 'neck', 'bbox_head'))


def test_segmentor_and_both_kinds_of_batch() -> None:
    cfg = config(SEGMENTOR, 'mmseg')
    rows, mode = inspect(cfg, (32, 64))
    assert mode == 'tensor'
    assert {row.path: row for row in rows}['decode_head.conv_seg'].outputs == ['(1, 5, 1, 2)']
    model = build_model(cfg)
    batch = fake_batch(cfg, model, (32, 64), size=2)
    assert len(batch['data_samples']) == 2 and batch['data_samples'][0].gt_sem_seg.data.max() < 5


def test_detection_batch_trains_a_step() -> None:
    cfg = config(DETECTOR, 'mmdet')
    cfg.model.train_cfg = dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                               sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False)
    model = build_model(cfg).train()
    data = model.data_preprocessor(fake_batch(cfg, model, (32, 64), size=2), True)
    losses = model(**data, mode='loss')
    assert all(torch.isfinite(torch.stack(list(value))).all() for value in losses.values())


def test_recording_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with recorded(net) as rows:
        net(torch.zeros(4, 2))
    assert [row.outputs for row in rows] == [['(4, 3)']] * 3
    assert 'forward' not in vars(net) and 'forward' not in vars(net[0])
    net(torch.zeros(4, 2))
    assert len(rows[0].outputs) == 1


def test_falls_back_to_predict_and_says_why_nothing_runs() -> None:
    class Model(nn.Module):
        def __init__(self, modes: set[str]) -> None:
            super().__init__()
            self.modes, self.data_preprocessor = modes, lambda data, training: data

        def forward(self, inputs: object, data_samples: object = None, mode: str = 'tensor') -> int:
            if mode not in self.modes:
                raise ValueError(f'no mode {mode}')
            return 1
    assert forward(Model({'predict'}), dict(inputs=0)) == 'predict'
    with pytest.raises(Exception, match='cannot run on random input: ValueError: no mode tensor'):
        forward(Model(set()), dict(inputs=0))


def test_shapes_of_nested_outputs() -> None:
    assert shapes(dict(a=(torch.zeros(1, 2), [torch.zeros(3)]), b=None)) == '{a: [(1, 2), [(3,)]], b: -}'


def test_input_shape_is_what_the_config_tests_on() -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert input_shape(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))) == (800, 1333)
    assert input_shape(Config(dict(model=dict()))) == (512, 512)


def test_table_of_two_models() -> None:
    student = [Row('', 'A', 10, ['(1,)']), Row('neck', 'FPN', 4, ['(1, 8)', '(1, 4)']), Row('x.y', 'Z', 0, [])]
    teacher = [Row('neck', 'FPN', 40, ['(1, 16)'])]
    text = table(student, teacher, titles=('student', 'teacher'))
    assert text.splitlines()[0].split() == ['module', 'student', 'class', 'params', 'output',
                                            'teacher', 'class', 'params', 'output']
    assert '2 calls: (1, 8) | (1, 4)' in text and '(1, 16)' in text and 'not called' in text
    assert len(table(student, grep='neck').splitlines()) == 2
    assert 'x.y' not in table(student, depth=1)


def test_command_line(tmp_path: Path, capsys) -> None:
    (tmp_path / 'c.py').write_text(f"default_scope = 'mmseg'\nmodel = {SEGMENTOR!r}\n")
    assert main([str(tmp_path / 'c.py'), '--shape', '32', '64', '--grep', 'conv_seg']) == 0
    out = capsys.readouterr().out
    assert 'decode_head.conv_seg' in out and 'backbone' not in out
    assert main([str(tmp_path / 'c.py'), '--shape', '0']) == 2
    (tmp_path / 'd.py').write_text("default_scope = 'mmseg'\n")
    assert main([str(tmp_path / 'd.py')]) == 2
    assert 'no `model`' in capsys.readouterr().err
