"""Deformable convolutions against mmcv's compiled kernels, recorded, a loop, and the plain convolution."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack
from mmcv.ops.deform_conv import deform_conv2d
from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
from torch import Tensor

from mmpapers.ops import _deform_cols as cols
from mmpapers.ops import deform_conv as op

pytestmark = pytest.mark.core
DATA = np.load(Path(__file__).parents[1] / 'data/parity/ops_conv.npz')
# stride, padding, dilation, groups, deform groups; as recorded
SETTINGS = {'plain': (1, 1, 1, 1, 1), 'strided': ((2, 1), (1, 2), 1, 2, 2), 'dilated': (1, 2, 2, 3, 1),
            'depthwise': (1, 1, 1, 4, 4), 'far': (1, 1, 1, 1, 2), 'pixel': (1, 0, 1, 1, 1),
            'larger_map': (1, 1, 1, 1, 1)}


@pytest.fixture(params=['compiled', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on each of the two implementations."""
    if request.param == 'torch':
        monkeypatch.setattr(cols, 'im2col', cols._im2col_torch)
        monkeypatch.setattr(cols, 'col2im', cols._col2im_torch)
    return request.param


def inputs(batch: int = 2, channels: int = 4, size: tuple[int, int] = (4, 5), outputs: int = 2, groups: int = 1,
           deform_groups: int = 1, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[Tensor]:
    """Leaves x, offset, mask, weight, bias of a 3x3 convolution with padding 1."""
    taps = 9 * deform_groups
    leaves = (torch.randn(batch, channels, *size), torch.randn(batch, 2 * taps, *size) * scale,
              torch.rand(batch, taps, *size), torch.randn(outputs, channels // groups, 3, 3), torch.randn(outputs))
    return [t.to(dtype).requires_grad_() for t in leaves]


@pytest.mark.parametrize('kind, case', [(kind, case) for kind in ('deform_conv', 'modulated_deform_conv')
                                        for case in SETTINGS if (kind, case) != ('deform_conv', 'larger_map')])
def test_recorded_values_and_gradients(kind: str, case: str, path: str) -> None:
    key = f'{kind}/{case}'
    names = [n for n in ('x', 'offset', 'mask', 'weight', 'bias') if f'{key}/in/{n}' in DATA]
    leaves = {n: torch.from_numpy(DATA[f'{key}/in/{n}']).requires_grad_() for n in names}
    if kind == 'deform_conv':
        out = deform_conv2d(*leaves.values(), *SETTINGS[case], False, 2)
    else:
        arguments = [leaves.get(n) for n in ('x', 'offset', 'mask', 'weight', 'bias')]
        out = modulated_deform_conv2d(*arguments, *SETTINGS[case])
    grads = torch.autograd.grad(out, list(leaves.values()), torch.from_numpy(DATA[f'{key}/grad']))
    torch.testing.assert_close(out.detach(), torch.from_numpy(DATA[f'{key}/out']), atol=1e-5, rtol=1e-5)
    for name, grad in zip(names, grads):
        torch.testing.assert_close(grad, torch.from_numpy(DATA[f'{key}/grad/{name}']), atol=1e-5, rtol=1e-5)


def test_loop_reference(path: str) -> None:
    x, offset, mask, weight, bias = (t.detach() for t in inputs(1, 4, (3, 4), 2, 2, 2, scale=2.0))
    out = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 2, 2)
    expected = bias[None, :, None, None].repeat(1, 1, 3, 4)
    for o, c, k, h, w in np.ndindex(2, 2, 9, 3, 4):
        channel = o * 2 + c  # one output a group of two channels
        group = channel // 2
        y = h - 1 + k // 3 + offset[0, group * 18 + 2 * k, h, w]
        z = w - 1 + k % 3 + offset[0, group * 18 + 2 * k + 1, h, w]
        value = sum(max(0, 1 - abs(y - i)) * max(0, 1 - abs(z - j)) * x[0, channel, i, j]
                    for i in range(3) for j in range(4))
        expected[0, o, h, w] += weight[o, c, k // 3, k % 3] * mask[0, group * 9 + k, h, w] * value
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('groups, deform_groups', [(1, 1), (2, 4), (4, 2)])
def test_gradcheck_modulated(groups: int, deform_groups: int, path: str) -> None:
    leaves = inputs(2, 4, (2, 3), 4, groups, deform_groups)
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv2d(*t, 1, 1, 1, groups, deform_groups), leaves,
                                    fast_mode=True)


def test_gradcheck_plain(path: str) -> None:
    x, offset, _, weight, _ = inputs(2, 4, (3, 3), 4, 2, 2)
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, 1, 1, 1, 2, 2), (x, offset, weight), fast_mode=True)


@pytest.mark.parametrize('settings', [(1, 1, 1, 1), (2, 0, 1, 2), ((1, 2), (2, 1), (2, 1), 4)])
def test_no_offset_is_the_plain_convolution(settings: tuple, path: str) -> None:
    stride, padding, dilation, groups = settings
    x, weight = torch.randn(3, 4, 7, 6, dtype=torch.float64), torch.randn(8, 4 // groups, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    offset = expected.new_zeros(3, 18, *expected.shape[2:])
    torch.testing.assert_close(deform_conv2d(x, offset, weight, stride, padding, dilation, groups, 1), expected)
    mask = offset[:, ::2] + 0.5
    half = modulated_deform_conv2d(x, offset, mask, weight, None, stride, padding, dilation, groups, 1)
    torch.testing.assert_close(half, expected / 2)


def test_many_chunks_give_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = inputs(3, 4, (9, 8), dtype=torch.float32)

    def run() -> list[Tensor]:
        out = modulated_deform_conv2d(*leaves, 1, 1, 1, 1, 1)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr(op._Conv, 'chunks', lambda self: (slice(i, i + 7) for i in range(0, len(self.points), 7)))
    for part, reference in zip(run(), whole):
        torch.testing.assert_close(part, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('bad', [1e4, -1e4, float('inf'), float('nan')])
def test_offsets_far_outside_sample_zero(bad: float, path: str) -> None:
    x, offset, mask, weight, bias = inputs(dtype=torch.float32)
    far = torch.full_like(offset, bad).requires_grad_()
    out = modulated_deform_conv2d(x, far, mask, weight, bias, 1, 1, 1, 1, 1)
    assert torch.equal(out, bias[None, :, None, None].expand_as(out))
    assert not any(g.any() for g in torch.autograd.grad(out.sum(), (x, far, mask, weight)))


def test_zero_mask_passes_gradient_to_the_mask_only() -> None:
    x, offset, mask, weight, _ = inputs()
    mask = torch.zeros_like(mask).requires_grad_()
    out = modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    of_x, of_offset, of_mask, of_weight = torch.autograd.grad(out.sum(), (x, offset, mask, weight))
    assert not out.any() and not of_x.any() and not of_offset.any() and not of_weight.any() and of_mask.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    leaves = inputs(dtype=dtype)
    wide = [t.detach().float().requires_grad_() for t in leaves]
    out, expected = (modulated_deform_conv2d(*t, 1, 1, 1, 1, 1) for t in (leaves, wide))
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype))
    for grad, reference in zip(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), wide)):
        torch.testing.assert_close(grad, reference.to(dtype))


def test_channels_last_and_strided_tensors() -> None:
    leaves = [t.detach() for t in inputs(dtype=torch.float32)]
    expected = modulated_deform_conv2d(*leaves, 1, 1, 1, 1, 1)
    last = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in leaves]
    assert not last[3].is_contiguous()
    last[0].requires_grad_()
    out = modulated_deform_conv2d(*last, 1, 1, 1, 1, 1)
    torch.testing.assert_close(out.detach(), expected)
    out.sum().backward()
    assert last[0].grad.abs().sum() > 0
    torch.testing.assert_close(deform_conv2d(leaves[0][:, ::2], leaves[1], leaves[3][:, ::2], 1, 1),
                               deform_conv2d(leaves[0][:, ::2].clone(), leaves[1], leaves[3][:, ::2].clone(), 1, 1))


def test_empty_batch_at_the_boundary() -> None:
    x, offset, mask, weight, bias = (t.detach()[:0] if i < 3 else t.detach() for i, t in enumerate(inputs()))
    out = x.new_empty(0, 2, 4, 5)
    op.modulated_deform_conv_forward(x, weight, bias, x, offset, mask, out, x, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, True)
    grads = [torch.zeros_like(t) for t in (x, weight, bias, offset, mask)]
    op.modulated_deform_conv_backward(x, weight, bias, x, offset, mask, x, *grads, out, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1,
                                      True)
    assert not any(grad.any() for grad in grads)


def test_layers_of_mmcv_train() -> None:
    layer = ModulatedDeformConv2dPack(4, 6, 3, padding=1, deform_groups=2)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight / 2, layer.bias, padding=1))  # sigmoid(0) = 1 / 2
    layer(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())
    # mmcv pads an image that is smaller than the kernel and cuts the result.
    assert DeformConv2d(4, 6, 3)(torch.randn(1, 4, 2, 2), torch.randn(1, 18, 0, 0)).shape == (1, 6, 0, 0)


def test_weight_gradient_is_added_with_its_scale() -> None:
    x, offset, _, weight, _ = (t.detach() for t in inputs())
    grad = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    once, twice = torch.zeros_like(weight), torch.ones_like(weight)
    for target, scale in ((once, 1), (twice, 2)):
        op.deform_conv_backward_parameters(x, offset, grad, target, x, x, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, scale, 2)
    torch.testing.assert_close(twice, 1 + 2 * once)


@pytest.mark.parametrize('change, message', [
    ({'offset': (2, 16, 4, 5)}, r'offset must be \(2, 18, 4, 5\).*but is \(2, 16, 4, 5\)'),
    ({'mask': (2, 9, 4, 4)}, r'mask must be \(2, 9, 4, 5\) or of a larger map'),
    ({'weight': (2, 3, 3, 3)}, r'4 channels does not fit a weight of \(2, 3, 3, 3\) with groups=1'),
    ({'x': (2, 4, 0, 5)}, 'is too small for kernel'),
    ({'deform_groups': 3}, 'deform_groups=3 must divide the 4 input channels'),
    ({'stride': 0}, 'stride and dilation must be at least 1'),
    ({'kernel': 5}, r'weight \(O, C / groups, 5, 5\)'),
])
def test_errors_name_the_op_and_the_shapes(change: dict, message: str) -> None:
    shapes = {'x': (2, 4, 4, 5), 'offset': (2, 18, 4, 5), 'mask': (2, 9, 4, 5), 'weight': (2, 4, 3, 3)} | change
    x, offset, mask, weight = (torch.zeros(shapes[name]) for name in ('x', 'offset', 'mask', 'weight'))
    kernel, stride = change.get('kernel', 3), change.get('stride', 1)
    with pytest.raises(ValueError, match='^modulated_deform_conv_forward: .*' + message):
        op.modulated_deform_conv_forward(x, weight, x, x, offset, mask, torch.zeros(2, 2, 4, 5), x, kernel, kernel,
                                         stride, stride, 1, 1, 1, 1, 1, change.get('deform_groups', 1), False)


def test_batch_that_im2col_step_does_not_divide() -> None:
    x, offset, _, weight, _ = (t.detach() for t in inputs(3))
    with pytest.raises(ValueError, match='batch of 3 must be divisible by im2col_step=2'):
        op.deform_conv_forward(x, weight, offset, x.new_empty(3, 2, 4, 5), x, x, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2)


def test_recording_script_covers_these_cases() -> None:
    source = Path(__file__).parents[1] / 'data/parity/record_ops_conv.py'
    spec = importlib.util.spec_from_file_location('record_ops_conv', source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {name: tuple(case[5:10]) for name, case in module.CONVS.items()} == SETTINGS
