"""Sparse convolution and pooling against dense ones, and mmdet3d's encoders with mmcv's and with spconv's layers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops
from mmcv.ops import sparse_conv as mmcv_sparse_conv
from mmdet3d.models.layers import spconv as mmdet3d_spconv
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from mmpapers.ops import _numba, sparse_conv, sparse_conv_pairs

try:
    import spconv.pytorch as spconv
except ImportError:  # hidden, in the process that `other` starts
    spconv = ops

pytestmark = pytest.mark.det3d
CONV = {2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


def cloud(shape: tuple[int, ...], batch: int = 2, share: float = 0.2, channels: int = 3,
          dtype: torch.dtype = torch.float32) -> ops.SparseConvTensor:
    """Voxels at random places in random order; features may be differentiated."""
    indices = (torch.rand(batch, *shape) < share).nonzero().int()
    indices = indices[torch.randperm(len(indices))]
    features = torch.randn(len(indices), channels, dtype=dtype, requires_grad=True)
    return ops.SparseConvTensor(features, indices, list(shape), batch)


def occupied(x: ops.SparseConvTensor) -> Tensor:
    """(B, 1, *shape), 1 where a voxel is."""
    return ops.SparseConvTensor(torch.ones(len(x.indices), 1), x.indices, x.spatial_shape, x.batch_size).dense()


def dense_weight(layer: nn.Module, transposed: bool = False) -> Tensor:
    """Weight of mmcv's layer, (*kernel, C, F), in the layout of torch's."""
    axes = list(range(layer.weight.dim() - 2))
    return layer.weight.permute(-2, -1, *axes) if transposed else layer.weight.permute(-1, -2, *axes)


def assert_same(out: ops.SparseConvTensor, expected: Tensor, sites: Tensor, leaves: list[Tensor]) -> None:
    """Same values at the same sites, zeros elsewhere, and same gradients."""
    assert torch.equal(occupied(out) > 0, sites)
    torch.testing.assert_close(out.dense(), expected * sites, atol=1e-4, rtol=1e-4)
    grad = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, leaves, grad, retain_graph=True) for y in (out.dense(), expected * sites))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('ndim, kernel, stride, padding, dilation', [
    (3, 3, 2, 1, 1), (3, (3, 1, 1), (2, 1, 1), 0, 1), (3, (2, 3, 4), 1, (0, 1, 2), (2, 1, 1)), (2, 3, (2, 3), 1, 1),
    (2, 5, 1, 4, 2), (3, 2, 2, 0, 1), (3, 1, 3, 0, 1)])
def test_convolution_is_the_dense_one(path: str, ndim: int, kernel: tuple, stride: tuple, padding: tuple,
                                      dilation: tuple) -> None:
    x = cloud((7, 8, 9)[-ndim:])
    layer = getattr(ops, f'SparseConv{ndim}d')(3, 4, kernel, stride, padding, dilation, bias=False)
    if layer.conv1x1:  # mmcv's layer multiplies and forgets the stride
        layer.conv1x1 = False
    sites = CONV[ndim](occupied(x), torch.ones(1, 1, *layer.kernel_size), None, stride, padding, dilation) > 0
    dense = CONV[ndim](x.dense(), dense_weight(layer), None, stride, padding, dilation)
    assert_same(layer(x), dense, sites, [x.features, layer.weight])


@pytest.mark.parametrize('ndim, kernel, dilation', [(3, 3, 1), (3, (3, 1, 5), 1), (2, 3, 2), (3, 3, (1, 2, 3))])
def test_submanifold_convolution_is_the_dense_one_where_voxels_are(path: str, ndim: int, kernel: tuple,
                                                                   dilation: tuple) -> None:
    x = cloud((6, 7, 8)[-ndim:])
    layer = getattr(ops, f'SubMConv{ndim}d')(3, 4, kernel, dilation=dilation, bias=False)
    padding = [k // 2 * d for k, d in zip(layer.kernel_size, layer.dilation)]
    dense = CONV[ndim](x.dense(), dense_weight(layer), None, 1, padding, dilation)
    out = layer(x)
    assert out.indices is x.indices
    assert_same(out, dense, occupied(x) > 0, [x.features, layer.weight])


@pytest.mark.parametrize('ndim, kernel, stride, padding', [(3, 3, 2, 1), (2, (2, 3), (1, 2), 0), (3, 2, 2, 0)])
def test_transposed_convolution_is_the_dense_one(path: str, ndim: int, kernel: tuple, stride: tuple,
                                                 padding: tuple) -> None:
    x = cloud((4, 5, 4)[-ndim:])
    layer = getattr(ops, f'SparseConvTranspose{ndim}d')(3, 4, kernel, stride, padding, bias=False)
    sites = TRANSPOSED[ndim](occupied(x), torch.ones(1, 1, *layer.kernel_size), None, stride, padding) > 0
    dense = TRANSPOSED[ndim](x.dense(), dense_weight(layer, transposed=True), None, stride, padding)
    assert_same(layer(x), dense, sites, [x.features, layer.weight])


def test_inverse_convolution_returns_to_the_sites_it_came_from(path: str) -> None:
    x = cloud((6, 7, 8))
    down = ops.SparseConv3d(3, 2, 3, 2, 1, bias=False, indice_key='a')
    up = ops.SparseInverseConv3d(2, 4, 3, indice_key='a', bias=False)
    middle = down(x)
    out = up(middle)
    assert torch.equal(out.indices, x.indices) and out.spatial_shape == x.spatial_shape
    extra = [(size + 1) % 2 for size in x.spatial_shape]
    dense = F.conv_transpose3d(middle.dense(), dense_weight(up, transposed=True), None, 2, 1, extra)
    assert_same(out, dense, occupied(x) > 0, [x.features, up.weight, down.weight])


@pytest.mark.parametrize('ndim, kernel, stride, padding', [(3, 3, 2, 1), (2, 2, 2, 0)])
def test_max_pooling_is_the_dense_one_of_positive_features(path: str, ndim: int, kernel: int, stride: int,
                                                           padding: int) -> None:
    x = cloud((6, 7, 8)[-ndim:])
    x.features = x.features.detach().abs().add(0.1).requires_grad_()
    out = getattr(ops, f'SparseMaxPool{ndim}d')(kernel, stride, padding)(x)
    dense = POOL[ndim](x.dense(), kernel, stride, padding)
    assert_same(out, dense, dense[:, :1] > 0, [x.features])


def test_max_pooling_of_negative_features_and_ties_is_mmcvs(path: str) -> None:
    pairs, count = torch.tensor([[[0], [0]], [[1], [0]], [[2], [1]]], dtype=torch.int32), torch.ones(3).int()
    features = torch.tensor([[2.0, -1], [2, -3], [-5, float('nan')]])
    out = sparse_conv.indice_maxpool_forward(features, pairs, count, 2)
    assert out.tolist() == [[2, 0], [0, 0]]
    grad = sparse_conv.indice_maxpool_backward(features, out, torch.ones(2, 2), pairs, count)
    assert grad.tolist() == [[1, 0], [1, 0], [0, 0]]


def test_four_dimensions(path: str) -> None:
    x = cloud((3, 4, 3, 4))
    layer = mmcv_sparse_conv.SparseConv4d(3, 2, 2, 2, 0, bias=False)
    out, dense = layer(x).dense(), torch.zeros(2, 2, 1, 2, 1, 2)
    for tap in torch.ones(2, 2, 2, 2).nonzero().tolist():
        window = tuple(slice(t, t + 2 * n - 1, 2) for t, n in zip(tap, (1, 2, 1, 2)))
        dense += torch.einsum('bc...,cf->bf...', x.dense()[(..., *window)], layer.weight[tuple(tap)])
    torch.testing.assert_close(out, dense)


class Convolution(torch.autograd.Function):
    """Mmcv's function; mmcv itself refuses float64."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, filters: Tensor, *rest: Tensor) -> Tensor:
        ctx.save_for_backward(features, filters, *rest[:2])
        ctx.flags = rest[3:]
        return sparse_conv.indice_conv_forward(features, filters, *rest)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
        features, filters, *pairs = ctx.saved_tensors
        return *sparse_conv.indice_conv_backward(features, filters, grad, *pairs, *ctx.flags), *[None] * 5


@pytest.mark.parametrize('subm, inverse', [(1, 0), (0, 0), (0, 1)])
def test_gradcheck(path: str, subm: int, inverse: int) -> None:
    x = cloud((4, 4, 5), dtype=torch.float64)
    out, pairs, count = sparse_conv_pairs.get_indice_pairs_3d_forward(
        x.indices, 2, [4, 4, 5] if subm else [2, 2, 3], [4, 4, 5], [3] * 3, [2] * 3, [1] * 3, [1] * 3, [0] * 3, subm, 0)
    features = torch.randn(len(out) if inverse else len(x.indices), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    sites = len(x.indices) if inverse else len(out)
    assert torch.autograd.gradcheck(
        lambda f, w: Convolution.apply(f, w, pairs, count, sites, inverse, subm), (features, weight), fast_mode=True)


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(*[st.integers(2, 6)] * 3), kernel=st.tuples(*[st.integers(1, 3)] * 3),
       stride=st.tuples(*[st.integers(1, 3)] * 3), mode=st.sampled_from(['subm', 'conv', 'transposed']),
       seed=st.integers(0, 2**16))
def test_both_paths_find_the_pairs_of_a_loop(size: tuple, kernel: tuple, stride: tuple, mode: str, seed: int) -> None:
    torch.manual_seed(seed)
    indices = cloud(size, share=0.3).indices
    padding = [k // 2 for k in kernel]
    if mode == 'transposed':
        out_shape = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(size, stride, padding, kernel)]
    else:
        out_shape = [(n + 2 * p - k) // s + 1 for n, s, p, k in zip(size, stride, padding, kernel)]
    if min(out_shape) < 1:
        return
    out_shape = size if mode == 'subm' else out_shape
    arguments = (indices, 2, out_shape, size, kernel, stride, padding, [1] * 3, [0] * 3, mode == 'subm',
                 mode == 'transposed')
    ours = sparse_conv_pairs.get_indice_pairs_3d_forward(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numba, 'native', lambda tensor: False)
        others = sparse_conv_pairs.get_indice_pairs_3d_backward(indices, torch.zeros(1), *arguments[1:])
    assert all(torch.equal(a, b) for a, b in zip(ours, others))
    out, pairs, count = ours
    expected = set()
    for row, (sample, *place) in enumerate(indices.tolist()):
        for tap, offset in enumerate(torch.ones(kernel).nonzero().tolist()):
            if mode == 'transposed':
                site = [p * s + o - q for p, s, o, q in zip(place, stride, offset, padding)]
            else:
                step = (1, 1, 1) if mode == 'subm' else stride
                site = [(p + q - o) / s for p, s, o, q in zip(place, step, offset, padding)]
            if all(0 <= v < n and v == int(v) for v, n in zip(site, out_shape)):
                expected.add((tap, row, (sample, *map(int, site))))
    if mode == 'subm':
        here = set(map(tuple, indices.tolist()))
        expected = {pair for pair in expected if pair[2] in here}
    else:
        assert out.tolist() == sorted(out.tolist()) and len(set(map(tuple, out.tolist()))) == len(out)
    found = {(tap, int(a), tuple(out[int(b)].tolist())) for tap, n in enumerate(count.tolist())
             for a, b in pairs[tap, :, :n].t()}
    assert found == expected and int(count.sum()) == len(expected)
    assert all((pairs[tap, :, n:] == -1).all() for tap, n in enumerate(count.tolist()))


LAYERS: dict[str, Callable] = {
    'SubMConv3d': lambda m: m.SubMConv3d(3, 4, 3), 'SparseConv3d': lambda m: m.SparseConv3d(3, 4, 3, 2, 1),
    'SparseConvTranspose3d': lambda m: m.SparseConvTranspose3d(3, 4, 3, 2, 1),
    'SparseMaxPool3d': lambda m: m.SparseMaxPool3d(3, 2, 1)}


@pytest.mark.parametrize('module', [ops, spconv], ids=['mmcv', 'spconv'])
@pytest.mark.parametrize('name', sorted(LAYERS))
def test_no_voxels_give_no_voxels(path: str, name: str, module: object) -> None:
    features = torch.zeros(0, 3, requires_grad=True)
    x = module.SparseConvTensor(features, torch.zeros(0, 4, dtype=torch.int32), [6, 6, 6], 2)
    out = LAYERS[name](module)(x)
    out.features.sum().backward()
    assert out.features.shape == (0, 3 if 'Pool' in name else 4) and out.indices.shape == (0, 4)
    assert features.grad.shape == (0, 3) and not out.dense().any()


def test_a_convolution_that_reaches_no_output_has_none(path: str) -> None:
    x = ops.SparseConvTensor(torch.randn(1, 3), torch.tensor([[0, 5, 5, 5]], dtype=torch.int32), [6, 6, 6], 1)
    out = ops.SparseConv3d(3, 4, 2, 3, 0)(x)
    assert out.features.shape == (0, 4) and out.spatial_shape == [2, 2, 2]


@pytest.mark.parametrize('place', [(0, 6, 1, 1), (0, -1, 1, 1), (2, 1, 1, 1), (0, 2**31 - 1, 1, 1)])
@pytest.mark.parametrize('module', [ops, spconv], ids=['mmcv', 'spconv'])
def test_voxels_outside_the_grid_are_named(place: tuple, module: object) -> None:
    x = module.SparseConvTensor(torch.randn(1, 3), torch.tensor([place], dtype=torch.int32), [6, 6, 6], 2)
    with pytest.raises(ValueError, match=r'there are 2 samples and the grid is \[6, 6, 6\]; sparse_shape has to be'):
        LAYERS['SubMConv3d'](module)(x)


def test_channels_that_do_not_fit_are_named() -> None:
    x = ops.SparseConvTensor(torch.randn(1, 5), torch.tensor([[0, 1, 1, 1]], dtype=torch.int32), [6, 6, 6], 1)
    with pytest.raises(ValueError, match='features have 5 channels, but the layer takes 3; check in_channels'):
        LAYERS['SubMConv3d'](ops)(x)


def test_equal_voxels_do_not_depend_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = torch.tensor([[0, 1, 1, 1]] * 3 + [[0, 1, 1, 2]], dtype=torch.int32)
    x = ops.SparseConvTensor(torch.randn(4, 3), indices, [4, 4, 4], 1)
    outs = []
    for layer in (LAYERS['SubMConv3d'](ops), LAYERS['SparseConv3d'](ops)):
        for native in (True, False):
            monkeypatch.setattr(_numba, 'native', lambda tensor, native=native: native)
            outs.append(layer(x).dense())
    torch.testing.assert_close(outs[0], outs[1])
    torch.testing.assert_close(outs[2], outs[3])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float32(path: str, dtype: torch.dtype) -> None:
    x = cloud((5, 5, 5))
    features = x.features.detach().to(dtype)
    weight, bias = torch.randn(3, 3, 3, 3, 4).to(dtype), torch.randn(4).to(dtype)
    pairs = sparse_conv_pairs.get_indice_pairs_3d_forward(x.indices, 2, [5] * 3, [5] * 3, [3] * 3, [1] * 3, [1] * 3,
                                                          [1] * 3, [0] * 3, 1, 0)[1:]
    rest = (*pairs, len(features), 0, 1)
    out = sparse_conv.fused_indice_conv_forward(features, weight, bias, *rest)
    single = sparse_conv.indice_conv_forward(features.float(), weight.float(), *rest) + bias.float()
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), single, atol=1e-2, rtol=1e-2)
    grads = sparse_conv.indice_conv_backward(features, weight, out, *pairs, 0, 1)
    assert [g.dtype for g in grads] == [dtype] * 2 and all(g.isfinite().all() for g in grads)


def test_autocast_does_not_lower_the_precision() -> None:
    x, layer = cloud((5, 5, 5)), LAYERS['SubMConv3d'](ops)
    expected = layer(x).features
    x.indice_dict.clear()
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x).features
    out.sum().backward()
    assert torch.equal(out, expected) and x.features.grad.dtype == torch.float32


def test_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = cloud((24, 30, 30), share=0.4), ops.SubMConv3d(3, 4, 3)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = layer(ops.SparseConvTensor(x.features, x.indices, x.spatial_shape, 2)).features
        results += [out, *torch.autograd.grad(out.square().sum(), [x.features, layer.weight])]
    torch.set_num_threads(2)
    for one, two in zip(results[:3], results[3:]):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


ENCODERS = {
    'encoder': {'type': 'SparseEncoder', 'in_channels': 4, 'sparse_shape': [41, 24, 24], 'base_channels': 4,
                'output_channels': 8, 'encoder_channels': ((4,), (8, 8), (8, 8)),
                'encoder_paddings': ((1,), (1, 1), ((0, 1, 1), 1))},
    'residual': {'type': 'SparseEncoder', 'in_channels': 4, 'sparse_shape': [41, 24, 24], 'base_channels': 4,
                 'output_channels': 8, 'block_type': 'basicblock', 'encoder_channels': ((4, 4, 8), (8, 8, 8)),
                 'encoder_paddings': ((0, 0, 1), (0, 0, 1))},
    'unet': {'type': 'SparseUNet', 'in_channels': 4, 'sparse_shape': [41, 24, 24], 'base_channels': 4,
             'output_channels': 8, 'encoder_channels': ((4,), (8, 8), (8, 8), (8, 8)),
             'decoder_channels': ((8, 8, 8), (8, 8, 8), (8, 8, 4), (4, 4, 4))}}


def run_encoder(name: str, state: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
    """Weights of an encoder of mmdet3d, its output on a fixed cloud, and its gradients, in mmcv's layout.

    Args:
        name: One of ``ENCODERS``.
        state: Weights to use, in mmcv's layout.
    """
    torch.manual_seed(3)
    x, model = cloud((41, 24, 24), share=0.02, channels=4), MODELS.build(ENCODERS[name])
    foreign = mmdet3d_spconv.IS_SPCONV2_AVAILABLE
    # (F, *kernel, C) of spconv and (*kernel, C, F) of mmcv
    native = [p.permute(1, 2, 3, 4, 0) if foreign and p.dim() == 5 else p for p in model.parameters()]
    with torch.no_grad():
        for mine, given in zip(native, state or ()):
            mine.copy_(given)
    out = model(x.features, x.indices, 2)
    out = torch.cat([v.flatten() for v in (out['seg_features'], out['spatial_features'])]) if name == 'unet' else out
    out.square().mean().backward()
    grads = [p.grad.permute(1, 2, 3, 4, 0) if foreign and p.dim() == 5 else p.grad for p in model.parameters()]
    return {'state': [p.detach().contiguous() for p in native], 'results': [out.detach(), x.features.grad, *grads]}


def run_layers() -> list[Tensor]:
    """Output and gradients of each kind of layer of spconv."""
    import spconv.pytorch as sp
    torch.manual_seed(1)
    indices = (torch.rand(1, 6, 6, 6) < 0.3).nonzero().int().contiguous()  # spconv takes no other strides
    net = sp.SparseSequential(sp.SubMConv3d(2, 4, 3), sp.SparseConv3d(4, 4, 3, 2, 1, indice_key='a'),
                              sp.SparseInverseConv3d(4, 2, 3, indice_key='a'), sp.SparseMaxPool3d(2, 2))
    features = torch.rand(len(indices), 2, requires_grad=True)
    out = net(sp.SparseConvTensor(features, indices, [6, 6, 6], 1)).dense()
    out.square().sum().backward()
    return [out.detach(), features.grad, *(p.grad for p in net.parameters())]


@pytest.fixture(scope='module')
def other(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process without spconv makes of the encoders, and then spconv's own kernels of its layers."""
    file = tmp_path_factory.mktemp('other') / 'results.pt'
    code = f'''
import sys, torch
sys.modules['spconv'] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
from mmpapers.compat import setup
setup()
import test_ops_sparse_conv as tests
assert not tests.mmdet3d_spconv.IS_SPCONV2_AVAILABLE
results = {{name: tests.run_encoder(name) for name in tests.ENCODERS}}
del sys.modules['spconv']
torch.save(results | {{'spconv': tests.run_layers()}}, {str(file)!r})
'''
    done = subprocess.run([sys.executable, '-c', code], env=os.environ | {'MMPAPERS_SPCONV': 'native'},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(file)


@pytest.mark.parametrize('name', sorted(ENCODERS))
def test_encoders_of_mmdet3d_agree_with_and_without_spconv(name: str, other: dict) -> None:
    assert mmdet3d_spconv.IS_SPCONV2_AVAILABLE
    theirs = other[name]
    ours = run_encoder(name, theirs['state'])
    assert len(ours['results']) == len(theirs['results']) > 20
    for a, b in zip(ours['results'], theirs['results']):
        assert b.any()
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_layers_of_spconv_agree_with_its_own_kernels(other: dict) -> None:
    ours = run_layers()
    assert len(ours) == len(other['spconv']) == 8
    for a, b in zip(ours, other['spconv']):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_an_activation_inside_a_layer_of_spconv_is_refused() -> None:
    from cumm import tensorview as tv
    layer = spconv.SubMConv3d(3, 4, 3).eval()
    layer.act_type = tv.gemm.Activation.ReLU
    x = spconv.SparseConvTensor(torch.zeros(1, 3), torch.zeros(1, 4, dtype=torch.int32), [4, 4, 4], 1)
    with pytest.raises(NotImplementedError, match='act_type=ReLU on the CPU: put the activation behind'):
        layer(x)
