"""The baseline distillers: their losses against loops, recorded numbers and properties, and one step of each."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.distill.methods.cwd import CWD, channel_divergence
from mmpapers.distill.methods.feature_mimic import FeatureMimic
from mmpapers.distill.methods.kl_distill import KLDistill, sigmoid_divergence, softmax_divergence
from mmpapers.distill.methods.pkd import PKD, standardise

pytestmark = pytest.mark.core
PARITY = np.load(Path(__file__).parents[1] / 'data/parity/distill_baselines.npz')


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def divergence_loop(student: list[float], teacher: list[float], tau: float) -> float:
    """KL divergence of two softmaxes, entry by entry."""
    ours, theirs = ([math.exp(value / tau) for value in values] for values in (student, teacher))
    return sum(t / sum(theirs) * math.log(t / sum(theirs) / (s / sum(ours))) for s, t in zip(ours, theirs))


# Losses --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('tau', [1., 4.])
def test_channel_divergence_is_the_loop_over_channels(tau: float) -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    expected = np.mean([divergence_loop(student[b, c].flatten().tolist(), teacher[b, c].flatten().tolist(), tau)
                        for b in range(2) for c in range(3)]) * tau**2
    assert channel_divergence(student, teacher, tau).item() == pytest.approx(expected, abs=1e-12)


def test_channel_divergence_is_that_of_both_releases() -> None:
    maps = recorded('input_maps')
    for tau, name in ((1., 'cwd_mmrazor_tau1'), (4., 'cwd_mmrazor_tau4'), (4., 'cwd_torchdistiller_tau4')):
        torch.testing.assert_close(channel_divergence(*maps, tau), recorded(name), rtol=1e-5, atol=0)


def test_channel_divergence_ignores_each_channels_offset() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    moved = student + 10 * torch.randn(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(channel_divergence(moved, teacher, 2.), channel_divergence(student, teacher, 2.))
    assert channel_divergence(teacher + 3, teacher, 2.).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('tau', [1., 4.])
def test_softmax_divergence_is_the_loop_over_rows_and_pixels(tau: float) -> None:
    student, teacher = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64)
    rows = (maps.permute(0, 2, 3, 1).reshape(-1, 3).tolist() for maps in (student, teacher))
    expected = np.mean([divergence_loop(s, t, tau) for s, t in zip(*rows)])
    assert softmax_divergence([(student, teacher)], tau).item() == pytest.approx(expected, abs=1e-12)
    levels = [(student[..., :1, :], teacher[..., :1, :]), (student[..., 1:, :], teacher[..., 1:, :])]
    assert softmax_divergence(levels, tau).item() == pytest.approx(expected, abs=1e-12)


def test_softmax_divergence_is_mmrazors() -> None:
    student, teacher = recorded('input_rows')
    for tau in (1, 4):
        torch.testing.assert_close(tau**2 * softmax_divergence([(student, teacher)], tau), recorded(f'kl_tau{tau}'),
                                   rtol=1e-5, atol=0)


def test_sigmoid_divergence_is_the_loop_over_entries() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    total = 0.
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist()):
        p, q = (1 / (1 + math.exp(-value / 2)) for value in (t, s))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected = total / teacher.sigmoid().sum().item()
    assert sigmoid_divergence([(student, teacher)], 2.).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('divergence', [softmax_divergence, sigmoid_divergence])
def test_divergences_are_zero_at_the_teacher_and_finite_at_extremes(divergence: Callable) -> None:
    teacher = torch.tensor([[300., -300., 0.], [-500., 400., 2.]])
    assert divergence([(teacher.clone(), teacher)], 1.).item() == pytest.approx(0, abs=1e-6)
    student = (-teacher).requires_grad_()
    loss = divergence([(student, teacher)], 1.)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all() and loss > 100
    assert divergence([(teacher[:0], teacher[:0])], 1.) == 0


def test_half_the_error_of_standardised_maps_is_one_minus_pearson() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    count = 2 * 4 * 5
    columns = [maps.transpose(0, 1).reshape(3, -1).numpy() for maps in (student, teacher)]
    expected = np.mean([1 - np.corrcoef(s, t)[0, 1] for s, t in zip(*columns)]) * (count - 1) / count  # unbiased std
    found = F.mse_loss(standardise(student), standardise(teacher)).item() / 2
    assert found == pytest.approx(expected, rel=1e-5)
    scaled = F.mse_loss(standardise(7 * student + 3), standardise(teacher)).item() / 2
    assert scaled == pytest.approx(found, rel=1e-5)


def test_standardised_maps_give_the_released_pkd() -> None:
    student, teacher = recorded('input_maps')
    torch.testing.assert_close(F.mse_loss(standardise(student), standardise(teacher)) / 2, recorded('pkd'),
                               rtol=1e-5, atol=0)
    constant = torch.ones(2, 3, 4, 4, requires_grad=True)
    standardise(constant).square().sum().backward()
    assert torch.isfinite(constant.grad).all()


# Distillers ----------------------------------------------------------------------------------------------------------
def pair(tiny_pair: Callable, kind: str) -> tuple[dict, dict, Callable]:
    student, teacher, batch = tiny_pair(kind)
    init_default_scope(student['_scope_'])
    return student, teacher, batch


def step(model: Distiller, batch: dict) -> tuple[dict[str, Any], Seen]:
    """The losses of a step, and what the objective saw."""
    caught, objective = [], model.objective
    model.objective = lambda seen: caught.append(seen) or objective(seen)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    del model.objective
    return losses, caught[0]


def mse(seen: Seen) -> Tensor:
    return sum(((s - t)**2).mean() for s, t in seen.pairs('features'))


def cwd(seen: Seen) -> Tensor:
    return sum(channel_divergence(s, t, 1.) for s, t in seen.pairs('features'))


def cwd_logits(seen: Seen) -> Tensor:
    return channel_divergence(seen.student['logits'][0], seen.teacher['logits'][0], 4.)


def pkd(seen: Seen) -> Tensor:
    return sum(F.mse_loss(standardise(s), standardise(t)) / 2 for s, t in seen.pairs('features'))


def kl_sigmoid(seen: Seen) -> Tensor:
    return sigmoid_divergence(zip(seen.student['logits'], seen.teacher['logits']), 1.)


def kl_boxes(seen: Seen) -> Tensor:
    (student,), (teacher,) = seen.student['logits'], seen.teacher['logits']
    assert student.shape == teacher.shape == (len(seen.boxes), 3)
    return 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction='batchmean')


CASES = [
    (FeatureMimic, 'dense', {}, 'mimic', 1., 3, mse), (FeatureMimic, 'segmentor', {}, 'mimic', 1., 1, mse),
    (CWD, 'dense', {}, 'cwd', 10., 3, cwd), (CWD, 'segmentor', {}, 'cwd', 3., 1, cwd_logits),
    (PKD, 'dense', {}, 'pkd', 10., 3, pkd), (PKD, 'two_stage', {}, 'pkd', 6., 3, pkd),
    (KLDistill, 'dense', {}, 'kl', 1., 3, kl_sigmoid), (KLDistill, 'two_stage', dict(tau=2.), 'kl', 1., 1, kl_boxes),
]


@pytest.mark.parametrize(('method', 'kind', 'settings', 'term', 'weight', 'levels', 'reference'), CASES,
                         ids=[f'{case[0].__name__}-{case[1]}' for case in CASES])
def test_a_step(tiny_pair: Callable, method: type, kind: str, settings: dict, term: str, weight: float, levels: int,
                reference: Callable) -> None:
    student, teacher, batch = pair(tiny_pair, kind)
    model = method(student=student, teacher=teacher, checkpoint='random', **settings).train()
    losses, seen = step(model, batch())
    (role,) = model.roles
    assert len(seen.student[role]) == len(seen.teacher[role]) == levels
    torch.testing.assert_close(losses[f'{term}_raw'], reference(seen).detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(losses[f'loss_{term}'].detach(), weight * losses[f'{term}_raw'])
    assert losses[f'loss_{term}'].requires_grad and losses[f'{term}_raw'] > 0


@pytest.mark.parametrize(('method', 'kind', 'term'), [
    (FeatureMimic, 'dense', 'mimic'), (CWD, 'segmentor', 'cwd'), (PKD, 'dense', 'pkd'), (KLDistill, 'dense', 'kl')])
def test_a_teacher_equal_to_the_student_gives_zero(tiny_pair: Callable, method: type, kind: str, term: str) -> None:
    cfg, _, batch = pair(tiny_pair, kind)
    student: nn.Module = MODELS.build(cfg)
    model = method(student=student, teacher=copy.deepcopy(student)).eval()  # batch statistics and dropout would differ
    losses, _ = step(model, batch())
    assert losses[f'{term}_raw'].item() == pytest.approx(0, abs=1e-6)


def test_settings_override_the_defaults_of_a_family(tiny_pair: Callable) -> None:
    student, teacher, _ = pair(tiny_pair, 'segmentor')
    given = dict(student=student, teacher=teacher, checkpoint='random', weight=0)  # nothing is run
    model = CWD(**given, on='features', tau=2., term_weights=dict(cwd=5.))
    assert (model.on, model.tau, model.term_weights['cwd'].value) == ('features', 2., 5.)
    assert model.taps_of['student'] == dict(features='backbone[-1]')
    assert PKD(**given, term_weights=dict(pkd=2.)).term_weights['pkd'].value == 2.
    model = KLDistill(**given, tau=4., activation='sigmoid', tau_squared=False)
    assert (model.divergence, model.factor) == (sigmoid_divergence, 1.)


def test_bad_settings(tiny_pair: Callable) -> None:
    student, teacher, _ = pair(tiny_pair, 'dense')
    given = dict(student=student, teacher=teacher, checkpoint='random')
    with pytest.raises(DistillError, match="distill.on='boxes': CWD compares 'logits' or 'features'"):
        CWD(**given, on='boxes')
    with pytest.raises(DistillError, match="activation='relu': choose 'auto', 'softmax' or 'sigmoid'"):
        KLDistill(**given, activation='relu')
    with pytest.raises(DistillError, match="names 'cwd'; FeatureMimic has mimic"):
        FeatureMimic(**given, term_weights=dict(cwd=1.))
    teacher['bbox_head']['num_classes'] = 5
    with pytest.raises(DistillError, match='taps.logits, tensor 0: the student has 6 channels and the teacher 15'):
        KLDistill(**given, connector='conv')
