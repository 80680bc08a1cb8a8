"""``get_flops``, ``benchmark`` and ``browse_dataset``."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from mmpapers.cli import benchmark, browse_dataset, get_flops

pytestmark = pytest.mark.core

SEGMENTOR = '''
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(type='FCNHead', in_channels=32, channels=4, num_convs=1, num_classes=2), train_cfg=dict(),
    test_cfg=dict(mode='whole'))
train_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root={root!r}, metainfo=dict(classes=('a', 'b'), palette=[[255, 0, 0], [0, 255, 0]]),
    data_prefix=dict(img_path='img', seg_map_path='ann'),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
'''
DETECTION = '''
default_scope = 'mmdet'
train_dataloader = dict(dataset=dict(
    type='CocoDataset', data_root={root!r}, ann_file='train.json', data_prefix=dict(img='img'),
    metainfo=dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
              dict(type='PackDetInputs')]))
'''


class Toy(nn.Module):
    """What the tools need of a mmengine model, around a plain network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        return data

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> torch.Tensor:
        return self.net(inputs)


class Attention(nn.Module):
    """Self-attention over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images with label maps and COCO annotations: a red class on the left, a green one on the right."""
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
    for i in range(4):
        Image.fromarray(np.full((32, 32, 3), (10, 20, 200), np.uint8)).save(tmp_path / f'img/{i}.jpg', quality=95)
        mask = np.zeros((32, 32), np.uint8)
        mask[:, 16:] = 1
        mask[:4] = 255
        Image.fromarray(mask).save(tmp_path / f'ann/{i}.png')
    box = dict(bbox=[8, 8, 16, 16], area=256, iscrowd=0, segmentation=[[8, 8, 24, 8, 24, 24, 8, 24]])
    (tmp_path / 'train.json').write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=32, width=32) for i in range(4)],
        annotations=[dict(box, id=i, image_id=i, category_id=1) for i in range(4)],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')])))
    (tmp_path / 'seg.py').write_text(SEGMENTOR.replace('{root!r}', repr(str(tmp_path))))
    (tmp_path / 'det.py').write_text(DETECTION.replace('{root!r}', repr(str(tmp_path))))
    return tmp_path


def test_flops_of_a_convolution_are_the_closed_form() -> None:
    model = Toy(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU())).eval()
    result = get_flops.count(model, dict(inputs=torch.zeros(1, 3, 6, 7)))
    assert result.total == result.modules['net.0'] == 2 * 5 * 3 * 9 * 6 * 7
    assert result.params == 5 * 3 * 9 + 10
    assert result.uncounted['relu'] == (1, 5 * 6 * 7)
    assert 'convolution' not in result.uncounted
    assert all(param.requires_grad for param in model.parameters())


def test_attention_is_counted_with_its_two_products() -> None:
    length, width = 5, 8
    result = get_flops.count(Toy(Attention()).eval(), dict(inputs=torch.zeros(1, length, width)))
    projections = 4 * 2 * length * width * width
    assert result.total == projections + 2 * 2 * length * length * width
    assert torch.backends.mha.get_fastpath_enabled()


def test_fused_attention_is_counted_too() -> None:
    class Fused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(x, x, x)
    result = get_flops.count(Toy(Fused()).eval(), dict(inputs=torch.zeros(1, 2, 5, 4)))
    assert result.total == 2 * 2 * 2 * 5 * 5 * 4


def test_kernels_outside_torch_are_listed() -> None:
    from mmcv.ops import roi_align

    class Pool(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return roi_align(x, torch.tensor([[0., 0, 0, 4, 4]]), 2)
    model = Toy(Pool()).eval()
    for _ in range(2):
        assert get_flops.count(model, dict(inputs=torch.zeros(1, 1, 8, 8))).kernels == {'roi_align_forward': 1}
    assert model(torch.ones(1, 1, 8, 8)).shape == (1, 1, 2, 2)


def test_flops_output(data: Path, capsys) -> None:
    assert get_flops.main([str(data / 'seg.py'), '--shape', '32', '32', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    assert get_flops.main([str(data / 'seg.py'), '--shape', '64', '64']) == 0
    out = capsys.readouterr().out
    assert 'input 1 x 3 x 64 x 64' in out and 'decode_head' in out and 'Not counted' in out
    assert f'{4 * rows["total"]:,}' in out  # a convolutional network: four times the pixels
    assert rows['modules']['backbone'] + rows['modules']['decode_head'] == rows['total']


def test_units() -> None:
    assert [get_flops.human(n) for n in (0, 999, 12_345, 1.5e9, 2e15)] == ['0', '999', '12.35 K', '1.5 G', '2000 T']


def test_measure_takes_the_median_of_the_calls_after_warm_up() -> None:
    delays = iter([0.05, 0.001, 0.001, 0.001, 0.02])
    timing = benchmark.measure('x', lambda: time.sleep(next(delays)), images=4, repeat=4, warmup=1)
    assert 0.001 <= timing.median < 0.01 < timing.p90
    assert timing.throughput == 4 / timing.median


def test_peak_memory_sees_an_allocation() -> None:
    timing = benchmark.measure('x', lambda: np.ones(8_000_000).sum(), images=1, repeat=2, warmup=0)
    assert timing.memory is None or timing.memory > 32e6


def test_ninetieth_percentile() -> None:
    assert benchmark._p90([float(i) for i in range(1, 11)]) == 9
    assert benchmark._p90([1.0]) == 1


def test_benchmark_of_all_tasks(data: Path, capsys) -> None:
    flags = ['--task', 'data', 'inference', 'train', '--shape', '32', '32', '--batch-size', '2', '--repeat', '2',
             '--warmup', '1', '--device', 'cpu']
    assert benchmark.main([str(data / 'seg.py'), *flags]) == 0
    out = capsys.readouterr().out
    assert 'batch 2 of 32 x 32' in out and '1 LoadAnnotations' in out
    assert [line.split()[0] for line in out.splitlines() if 'MiB' in line] == ['data', 'inference', 'train']


def test_benchmark_refuses_nonsense(data: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([str(data / 'seg.py'), '--repeat', '0'])
    assert benchmark.main([str(data / 'det.py'), '--device', 'cpu']) == 2
    assert 'no `model`' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['seg', 'det'])
def test_browse_writes_pictures(data: Path, name: str, capsys) -> None:
    out = data / 'out'
    assert browse_dataset.main([str(data / f'{name}.py'), '--output-dir', str(out), '--number', '3']) == 0
    assert len(list(out.glob('*.png'))) == 3
    picture = np.asarray(Image.open(sorted(out.glob('*.png'))[0])).astype(int)
    assert picture.shape == (32, 32, 3)
    red, green, blue = picture[20, 12]
    assert red > 100 and green < 60  # class a, over an image that is blue
    if name == 'seg':
        assert picture[30, 28, 1] > 100  # class b
        assert picture[1, 1, 2] < 90  # ignored pixels are darkened
    else:
        assert picture[30, 30, 2] > 180  # background is left as it was


def test_browse_grid_and_missing_split(data: Path, capsys) -> None:
    out = data / 'out'
    assert browse_dataset.main([str(data / 'seg.py'), '--output-dir', str(out), '--number', '4', '--grid', '2']) == 0
    assert np.asarray(Image.open(out / 'grid.png')).shape == (68, 68, 3)
    assert browse_dataset.main([str(data / 'seg.py'), '--split', 'val']) == 2
    assert 'no `val_dataloader`' in capsys.readouterr().err


def test_grid_keeps_the_aspect() -> None:
    sheet = browse_dataset.grid([np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20, 3), np.uint8),
                                 np.zeros((20, 20, 3), np.uint8)], 2)
    assert sheet.shape == (24, 44, 3)
    assert (sheet[14:, :10] == 0).all() and (sheet[14:, 10:20] == 255).all()
