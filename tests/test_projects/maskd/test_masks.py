"""ReceptiveTokenMask, the Dice diversity and files of masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmpapers.distill import DistillError
from mmpapers.projects.maskd.masks import ReceptiveTokenMask, dice_diversity, load_masks, save_masks, signature

pytestmark = pytest.mark.det


@pytest.fixture(scope='module')
def recorded() -> dict[str, torch.Tensor]:
    """What the official code computed (see maskd_record.py)."""
    with np.load(Path(__file__).parents[2] / 'data/parity/maskd.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != 'provenance'}


def _official(recorded: dict, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


@pytest.mark.parametrize('kind', ['weighted', 'plain'])
def test_equals_the_official_module(recorded: dict, kind: str, tmp_path: Path) -> None:
    torch.save(dict(state_dict=_official(recorded, f'learn.{kind}.state.')), tmp_path / 'official.pth')
    masks = nn.ModuleList([ReceptiveTokenMask(16, 6, kind == 'weighted')])
    load_masks(masks, tmp_path / 'official.pth')
    masked, open_, weights = masks[0].reconstruct(recorded['teacher.0'])
    torch.testing.assert_close(open_, recorded[f'learn.{kind}.masks'])
    torch.testing.assert_close(masked, recorded[f'learn.{kind}.masked'], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dice_diversity(open_), recorded[f'learn.{kind}.diversity'])
    if kind == 'weighted':
        torch.testing.assert_close(weights, recorded['learn.weighted.weights'])
    else:
        assert weights is None


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (7, 2), (9, 13)])
def test_weights_are_a_softmax_of_convolution_pooling_and_convolution(size: tuple[int, int]) -> None:
    mask = ReceptiveTokenMask(5, 4)
    for layer in (mask.context, mask.score):
        nn.init.normal_(layer.bias)
    feature = torch.randn(3, 5, *size)
    pooled = F.adaptive_avg_pool2d(mask.context(feature), 1)
    torch.testing.assert_close(mask.weights(feature), mask.score(pooled).flatten(1).softmax(1))
    torch.testing.assert_close(mask.weights(feature).sum(1), torch.ones(3))


def test_masks_by_loops_and_their_range() -> None:
    mask, feature = ReceptiveTokenMask(3, 2, False), torch.randn(2, 3, 4, 5)
    nn.init.normal_(mask.tokens)
    out = mask(feature)
    assert out.shape == (2, 2, 4, 5)
    assert ((out > 0) & (out < 1)).all()
    for n in range(2):
        for t in range(2):
            for y in range(4):
                for x in range(5):
                    product = sum(mask.tokens[t, c] * feature[n, c, y, x] for c in range(3))
                    assert torch.isclose(out[n, t, y, x], product.sigmoid())


def test_initial_values() -> None:
    mask = ReceptiveTokenMask(256, 6)
    assert mask.tokens.std().item() == pytest.approx(0.01, rel=0.05)
    assert mask.context.weight.std().item() == pytest.approx((2 / (9 * 256))**0.5, rel=0.02)
    assert mask.score.weight.std().item() == pytest.approx((2 / 6)**0.5, rel=0.05)
    assert not mask.context.bias.any()
    assert not mask.score.bias.any()


def test_reconstruction_is_the_weighted_sum_over_masks_and_differentiable() -> None:
    mask, feature = ReceptiveTokenMask(2, 3).double(), torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    out, masks, weights = mask.reconstruct(feature)
    expected = sum(weights[:, t, None, None, None] * masks[:, t, None] * feature for t in range(3))
    torch.testing.assert_close(out, expected)
    assert torch.autograd.gradcheck(lambda x: mask.reconstruct(x)[0], feature)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps_get_float32_masks(dtype: torch.dtype) -> None:
    mask, feature = ReceptiveTokenMask(512, 6), torch.randn(1, 512, 4, 4)
    nn.init.normal_(mask.tokens)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out, masks, weights = mask.reconstruct(feature.to(dtype))
    assert (out.dtype, masks.dtype, weights.dtype) == (dtype, torch.float32, torch.float32)
    torch.testing.assert_close(masks, mask(feature.to(dtype).float()))


def test_dice_of_equal_masks_is_1_and_of_disjoint_ones_0() -> None:
    one = torch.rand(2, 1, 4, 5)
    assert dice_diversity(one.expand(-1, 6, -1, -1)).item() == pytest.approx(1)
    disjoint = torch.eye(6).view(1, 6, 2, 3)
    assert dice_diversity(disjoint).item() == 0
    assert dice_diversity(one).item() == 0
    assert dice_diversity(torch.zeros(1, 3, 2, 2)).item() == 0


def test_dice_by_loops_and_in_any_order_of_tokens() -> None:
    masks = torch.rand(2, 4, 3, 3)
    total = 0.
    for image in masks:
        for i in range(4):
            for j in range(4):
                if i != j:
                    total += 2 * (image[i] * image[j]).sum() / (image[i]**2).sum().add((image[j]**2).sum())
    torch.testing.assert_close(dice_diversity(masks), total / (2 * 4 * 3))
    torch.testing.assert_close(dice_diversity(masks[:, torch.tensor([2, 0, 3, 1])]), dice_diversity(masks))


def _masks(levels: int = 2, channels: int = 4, tokens: int = 3, weighted: bool = True) -> nn.ModuleList:
    return nn.ModuleList(ReceptiveTokenMask(channels, tokens, weighted) for _ in range(levels))


def test_a_file_keeps_masks_and_knows_their_teacher(tmp_path: Path) -> None:
    saved, loaded, teacher = _masks(), _masks(), nn.Linear(3, 3)
    save_masks(saved, teacher, tmp_path / 'new' / 'masks.pth')
    load_masks(loaded, tmp_path / 'new' / 'masks.pth', teacher)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters()))
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['masks.pth']
    with pytest.raises(DistillError, match='learned on another teacher'):
        load_masks(loaded, tmp_path / 'new' / 'masks.pth', nn.Linear(3, 3))
    assert signature(teacher).dtype == torch.int64


@pytest.mark.parametrize(('other', 'message'), [
    (dict(levels=3), 'holds masks of 2 levels and the teacher gives 3'), (dict(channels=5), 'masks for 4 channels'),
    (dict(tokens=7), 'set num_tokens=3'), (dict(weighted=False), 'set token_weights=True')])
def test_a_file_that_does_not_fit_is_refused(other: dict, message: str, tmp_path: Path) -> None:
    teacher = nn.Linear(3, 3)
    save_masks(_masks(), teacher, tmp_path / 'masks.pth')
    with pytest.raises(DistillError, match=message):
        load_masks(_masks(**other), tmp_path / 'masks.pth', teacher)


def test_no_file_and_a_file_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="masks='.*nowhere.pth' does not exist; distill.masks='learn'"):
        load_masks(_masks(), tmp_path / 'nowhere.pth')
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), tmp_path / 'model.pth')
    with pytest.raises(DistillError, match='holds no masks'):
        load_masks(_masks(), tmp_path / 'model.pth')
