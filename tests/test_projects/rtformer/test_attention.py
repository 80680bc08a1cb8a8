"""GPU-friendly attention and cross-resolution attention against loops, and their properties."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmpapers.projects.rtformer.attention import CrossResolutionAttention, GPUFriendlyAttention

pytestmark = pytest.mark.seg


def _gpu_friendly(in_channels: int = 16, out_channels: int = 16) -> GPUFriendlyAttention:
    """In eval mode and float64, with keys large enough to matter."""
    module = GPUFriendlyAttention(in_channels, out_channels, num_heads=4).double().eval()
    with torch.no_grad():
        module.key.mul_(1000)
        module.value.mul_(1000)
    return module


def _double_normalisation(logits: Tensor, num_heads: int) -> Tensor:
    """Loop over images, groups, keys and pixels; (B, D, H, W) in and out."""
    batch, channels, height, width = logits.shape
    weights = torch.zeros_like(logits)
    size = channels // num_heads
    for b in range(batch):
        for c in range(channels):
            total = sum(logits[b, c, i, j].exp() for i in range(height) for j in range(width))
            for i in range(height):
                for j in range(width):
                    weights[b, c, i, j] = logits[b, c, i, j].exp() / total
        for head in range(num_heads):
            group = weights[b, head * size:(head + 1) * size]
            for i in range(height):
                for j in range(width):
                    group[:, i, j] /= sum(group[:, i, j].clone()) + 1e-6
    return weights


@pytest.mark.parametrize('out_channels, stride', [(16, 1), (24, 2)])
def test_gpu_friendly_attention_equals_loops(out_channels: int, stride: int) -> None:
    module = _gpu_friendly(16, out_channels)
    x = torch.randn(2, 16, 5, 4).double()
    normalised = module.norm(x)[:, :, ::stride, ::stride]
    logits = torch.einsum('dc,bchw->bdhw', module.key[..., 0, 0], normalised)
    expected = torch.einsum('ed,bdhw->behw', module.value[..., 0, 0], _double_normalisation(logits, 4))
    torch.testing.assert_close(module(x), expected)


def test_gpu_friendly_attention_is_normalised_in_every_group() -> None:
    module = _gpu_friendly()
    x = torch.randn(2, 16, 6, 7).double()
    weights = module.attend(x)
    assert weights.shape == (2, 6, 7, 16) and (weights >= 0).all()
    sums = weights.unflatten(-1, (4, 4)).sum(-1)
    once = torch.einsum('dc,bchw->bhwd', module.key[..., 0, 0], x).flatten(1, 2).softmax(1).view(2, 6, 7, 4, 4).sum(-1)
    torch.testing.assert_close(sums, once / (once + 1e-6))
    module.key.data.mul_(1e-3)  # of the size they start with, the sums before are near 4 / 42 and 1e-6 hardly counts
    sums = module.attend(x).unflatten(-1, (4, 4)).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1.1e-5)


def test_gpu_friendly_attention_ignores_a_common_shift_of_the_logits() -> None:
    """The first softmax is over the pixels: what is the same for all pixels cancels."""
    module = _gpu_friendly()
    x = torch.randn(1, 16, 6, 7).double()
    torch.testing.assert_close(module(x + torch.randn(1, 16, 1, 1)), module(x))


def test_cross_resolution_attention_equals_softmax_attention() -> None:
    module = CrossResolutionAttention(6, 10, cross_size=3).double().eval()
    high, low = torch.randn(2, 6, 5, 4).double(), torch.randn(2, 10, 7, 8).double()
    out = module(high, low)
    query, kv = module.norm(high), module.kv(low)  # (2, 12, 3, 3)
    for b in range(2):
        for i in range(5):
            for j in range(4):
                scores = torch.stack([(query[b, :, i, j] * kv[b, :6, m, n]).sum() for m in range(3) for n in range(3)])
                weights = torch.softmax(scores * 9 ** -0.5, 0)
                values = torch.stack([kv[b, 6:, m, n] for m in range(3) for n in range(3)])
                torch.testing.assert_close(out[b, :, i, j], weights @ values)


def test_cross_resolution_attention_treats_images_apart() -> None:
    module = CrossResolutionAttention(6, 10, cross_size=4).eval()
    high, low = torch.randn(3, 6, 5, 4), torch.randn(3, 10, 2, 3)  # pooled to more cells than it has
    single = torch.cat([module(high[i:i + 1], low[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(module(high, low), single, rtol=1e-5, atol=1e-6)


def _products(module: torch.nn.Module, *inputs: Tensor) -> int:
    """Floating point operations of all matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def test_cost_is_linear_in_the_pixels() -> None:
    attention = GPUFriendlyAttention(16, 16)
    small, large = (_products(attention, torch.randn(1, 16, height, 5)) for height in (6, 12))
    assert small == 2 * 2 * 30 * 16 * 16 and large == 2 * small
    cross = CrossResolutionAttention(6, 10, cross_size=3)
    keys = 2 * 9 * 10 * 12  # made from the pooled map, whatever its size
    small, large = (_products(cross, torch.randn(2, 6, height, 5), torch.randn(2, 10, height, 5)) - 2 * keys
                    for height in (6, 12))
    assert small == 2 * 2 * 2 * 30 * 6 * 9 and large == 2 * small


def test_learned_keys_and_values_start_small() -> None:
    module = GPUFriendlyAttention(128, 256)
    for parameter, shape in ((module.key, (256, 128, 1, 1)), (module.value, (256, 256, 1, 1))):
        assert parameter.shape == shape
        assert parameter.std().item() == pytest.approx(0.001, rel=0.05)
        assert abs(parameter.mean().item()) < 1e-4
    cross = CrossResolutionAttention(64, 256)
    cross.init_weights()
    assert 0.015 < cross.kv[2].weight.std().item() < 0.02
    assert cross.kv[2].weight.abs().max().item() <= 0.04


def test_groups_must_divide_the_keys() -> None:
    with pytest.raises(ValueError, match='out_channels=20 is not a multiple of num_heads=8; set num_heads'):
        GPUFriendlyAttention(20, 20)
