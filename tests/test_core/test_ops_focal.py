"""Sigmoid and softmax focal loss through mmcv's functions against their closed forms."""

import math

import pytest
import torch
from mmcv import ops
from torch import Tensor

pytestmark = pytest.mark.core


def make(background: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (6, 4), a target for each class and one for none, and class weights."""
    return (torch.randn(6, 4, dtype=torch.float64) * 3, torch.tensor([0, 1, 2, 3, background, 1]),
            torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss_is_its_formula(gamma: float, weighted: bool) -> None:
    x, target, weight = make(background=4)
    out = ops.sigmoid_focal_loss(x, target, gamma, 0.25, weight if weighted else None, 'none')
    for n in range(6):
        for c in range(4):
            p = 1 / (1 + math.exp(-x[n, c]))
            hit = target[n] == c
            loss = -0.25 * (1 - p)**gamma * math.log(p) if hit else -0.75 * p**gamma * math.log(1 - p)
            if weighted and target[n] < 4:
                loss *= weight[target[n]].item()
            assert out[n, c].item() == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss_is_its_formula(gamma: float, weighted: bool) -> None:
    x, target, weight = make(background=-1)
    out = ops.softmax_focal_loss(x, target, gamma, 0.25, weight if weighted else None, 'none')
    p = x.softmax(1)
    for n in range(6):
        t = int(target[n])
        loss = -0.25 * (1 - p[n, t].item())**gamma * math.log(p[n, t]) if t >= 0 else 0
        assert out[n].item() == pytest.approx(loss * (weight[t].item() if weighted else 1), rel=1e-9)


@pytest.mark.parametrize('loss, background', [(ops.sigmoid_focal_loss, 4), (ops.softmax_focal_loss, -1)])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_gradcheck(loss: callable, background: int, gamma: float, reduction: str) -> None:
    x, target, weight = make(background)
    assert torch.autograd.gradcheck(lambda t: loss(t, target, gamma, 0.25, weight, reduction), x.requires_grad_())


def test_ignored_rows_get_no_gradient() -> None:
    x, target, weight = make(background=-1)
    x.requires_grad_()
    ops.softmax_focal_loss(x, target, 2.0, 0.25, weight, 'sum').backward()
    assert not x.grad[4].any() and x.grad[[0, 1, 2, 3, 5]].any(1).all()


@pytest.mark.parametrize('loss', [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_extreme_logits_stay_finite(loss: callable, gamma: float) -> None:
    x = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]], requires_grad=True)
    target = torch.tensor([0, 0, 1])
    loss(x, target, gamma, 0.25, None, 'sum').backward()
    out = loss(x.detach(), target, gamma, 0.25, None, 'none')
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert out[0].sum() < 1e-6 < out[1].sum()


def test_agreement_with_the_formula_that_mmdet_uses_on_cpu() -> None:
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    x, target, _ = make(background=4)
    x = x.float()
    one_hot = torch.nn.functional.one_hot(target, 5)[:, :4]
    torch.testing.assert_close(ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none'),
                               py_sigmoid_focal_loss(x, one_hot, reduction='none'))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float32(dtype: torch.dtype) -> None:
    x, target, _ = make(background=4)
    x = x.to(dtype)
    assert torch.equal(ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none'),
                       ops.sigmoid_focal_loss(x.float(), target, 2.0, 0.25, None, 'none').to(dtype))


def test_no_rows_and_wrong_targets() -> None:
    assert ops.sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0).long(), 2.0, 0.25, None, 'sum').item() == 0
    with pytest.raises(ValueError, match='softmax_focal_loss: target 7 is none of the 3 classes; set num_classes'):
        ops.softmax_focal_loss(torch.zeros(1, 3), torch.tensor([7]), 2.0, 0.25, None, 'sum')
