"""Multi-scale deformable attention against mmcv's python path, recorded, and a loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention, MultiScaleDeformableAttnFunction
from torch import Tensor

from mmpapers.compat import deform_attn
from mmpapers.ops import ms_deform_attn as op

pytestmark = pytest.mark.core
DATA = np.load(Path(__file__).parents[1] / 'data/parity/ops_conv.npz')
SHAPES = torch.tensor([[6, 8], [3, 4], [1, 1]])
STARTS = torch.tensor([0, 48, 60])


@pytest.fixture(params=['compiled', 'torch'])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on each of the two implementations."""
    if request.param == 'torch':
        monkeypatch.setattr(op, '_forward_cpu', op._forward_torch)
        monkeypatch.setattr(op, '_backward_cpu', op._backward_torch)
    return request.param


def attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor = SHAPES) -> Tensor:
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def inputs(dtype: torch.dtype = torch.float64, spread: float = 1.0) -> list[Tensor]:
    locations = (torch.rand(2, 3, 2, 3, 2, 2, dtype=dtype) - 0.5) * spread + 0.5
    return [t.requires_grad_() for t in (torch.randn(2, 61, 2, 4, dtype=dtype), locations,
                                         torch.rand(2, 3, 2, 3, 2, dtype=dtype))]


def test_recorded_values_and_gradients(path: str) -> None:
    assert json.loads(str(DATA['provenance']))['version'] == '2.1.0'
    leaves = [torch.from_numpy(DATA[f'ms_deform_attn/levels/in/{name}']).requires_grad_()
              for name in ('value', 'locations', 'weights')]
    out = attend(*leaves)
    grads = torch.autograd.grad(out, leaves, torch.from_numpy(DATA['ms_deform_attn/levels/grad']))
    torch.testing.assert_close(out.detach(), torch.from_numpy(DATA['ms_deform_attn/levels/out']), atol=1e-5, rtol=1e-5)
    for name, grad in zip(('value', 'locations', 'weights'), grads):
        torch.testing.assert_close(grad, torch.from_numpy(DATA[f'ms_deform_attn/levels/grad/{name}']), atol=1e-5,
                                   rtol=1e-5)


def test_loop_reference(path: str) -> None:
    value, locations, weights = (t.detach() for t in inputs(spread=1.5))
    out = attend(value, locations, weights)
    expected = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    for b, q, m, level, p in np.ndindex(2, 3, 2, 3, 2):
        height, width = SHAPES[level].tolist()
        x, y = (locations[b, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for i in range(height):
            for j in range(width):
                factor = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                expected[b, q, m] += factor * weights[b, q, m, level, p] * value[b, STARTS[level] + i * width + j, m]
    torch.testing.assert_close(out, expected.flatten(2))


def test_gradcheck(path: str) -> None:
    assert torch.autograd.gradcheck(attend, inputs(spread=1.3), fast_mode=True)


def test_locations_far_outside_and_nan_give_zero() -> None:
    value, locations, weights = inputs()
    for bad in (5.0, -1e6, float('nan')):
        far = torch.full_like(locations, bad).requires_grad_()
        out = attend(value, far, weights)
        grads = torch.autograd.grad(out.sum(), (value, far, weights))
        assert not out.any() and not any(grad.any() for grad in grads)


def test_empty_batch_and_no_queries() -> None:
    value, locations, weights = (t.detach() for t in inputs())
    assert attend(value[:0], locations[:0], weights[:0]).shape == (0, 3, 8)
    assert attend(value, locations[:, :0], weights[:, :0]).shape == (2, 0, 8)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    leaves = [t.detach().to(dtype).requires_grad_() for t in inputs(torch.float32)]
    wide = [t.detach().float().requires_grad_() for t in leaves]
    out, expected = attend(*leaves), attend(*wide)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype))
    for grad, reference in zip(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), wide)):
        torch.testing.assert_close(grad, reference.to(dtype))


def test_errors_say_what_to_pass() -> None:
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match=r'ms_deform_attn_forward: .*sampling_locations must be .*\(2, 3, 2, 3, 2'):
        attend(value, locations[..., :1], weights)
    with pytest.raises(ValueError, match='61 rows, but the levels .* hold 60'):
        attend(value, locations[:, :, :, :2], weights[:, :, :, :2], SHAPES[:2])


def test_module_of_mmcv_uses_the_op_on_cpu() -> None:
    deform_attn.install()
    from mmcv.ops import multi_scale_deform_attn as module
    replaced = module.multi_scale_deformable_attn_pytorch
    deform_attn.install()
    assert module.multi_scale_deformable_attn_pytorch is replaced
    original = replaced.__wrapped__
    layer = MultiScaleDeformableAttention(embed_dims=16, num_heads=2, num_levels=3, num_points=2, batch_first=True)
    query, reference = torch.randn(2, 5, 16), torch.rand(2, 5, 3, 2)
    value = torch.randn(2, 61, 16)
    results = []
    for function in (replaced, original):
        module.multi_scale_deformable_attn_pytorch = function
        layer.zero_grad()
        torch.manual_seed(0)
        out = layer(query, value=value, reference_points=reference, spatial_shapes=SHAPES, level_start_index=STARTS)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in layer.parameters())])
    module.multi_scale_deformable_attn_pytorch = replaced
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_replacement_in_half_precision_and_under_fake_tensors() -> None:
    deform_attn.install()
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch as attend_anywhere
    value, locations, weights = (t.detach() for t in inputs(torch.float32))
    exact = attend_anywhere(value, SHAPES, locations, weights)
    rounded = attend_anywhere(value.bfloat16(), SHAPES, locations, weights)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
    from torch._subclasses import FakeTensorMode
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in (value, locations, weights)]
        assert attend_anywhere(fakes[0], [(6, 8), (3, 4), (1, 1)], *fakes[1:]).shape == (2, 3, 8)
