"""MasKDLoss: numbers of the official code, a loop, and the properties of its formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmpapers.projects.maskd.loss import MasKDLoss
from mmpapers.projects.maskd.masks import ReceptiveTokenMask, load_masks

pytestmark = pytest.mark.det


@pytest.fixture(scope='module')
def recorded() -> dict[str, torch.Tensor]:
    """What the official code computed (see maskd_record.py)."""
    with np.load(Path(__file__).parents[2] / 'data/parity/maskd.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != 'provenance'}


def _pairs(*sizes: tuple[int, int], channels: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    students, teachers = ([torch.randn(2, channels, *size) for size in sizes] for _ in range(2))
    return students, teachers


@pytest.mark.parametrize('kind', ['weighted', 'plain'])
@pytest.mark.parametrize('step', [0, 1], ids=['warm-up', 'customised'])
def test_equals_the_official_loss_and_its_gradients(recorded: dict, kind: str, step: int, tmp_path: Path) -> None:
    prefix = f'loss.{kind}.state.'
    torch.save(dict(state_dict={k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}),
               tmp_path / 'official.pth')
    loss = MasKDLoss([16, 16], 6, kind == 'weighted', eps=0.)
    load_masks(loss.masks, tmp_path / 'official.pth')
    students = [recorded[f'student.{i}'].clone().requires_grad_() for i in range(2)]
    value = 7 * loss(students, [recorded['teacher.0'], recorded['teacher.1']], customise=step == 1)
    torch.testing.assert_close(value, recorded[f'loss.{kind}.values'][step], rtol=1e-5, atol=0)
    for i, gradient in enumerate(torch.autograd.grad(value, students)):
        torch.testing.assert_close(gradient, recorded[f'loss.{kind}.gradient.{step}.{i}'], rtol=1e-4, atol=1e-6)


def test_equals_the_official_loss_of_segmentors(recorded: dict, tmp_path: Path) -> None:
    torch.save({'mask_token': recorded['segmentation.state.mask_token']}, tmp_path / 'official.pth')
    loss = MasKDLoss([16], 8, False, eps=1e-5, factor=0.5)
    load_masks(loss.masks, tmp_path / 'official.pth')
    value = loss([recorded['student.0']], [recorded['teacher.0']])
    torch.testing.assert_close(value, recorded['segmentation.value'], rtol=1e-5, atol=0)


@pytest.mark.parametrize('customise', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
def test_by_loops(weighted: bool, customise: bool) -> None:
    loss = MasKDLoss([3, 3], 2, weighted, eps=1e-3, factor=1.5)
    students, teachers = _pairs((2, 3), (1, 2), channels=3)
    total = 0.
    for mask, student, teacher in zip(loss.masks, students, teachers):
        nn.init.normal_(mask.tokens)
        for n in range(2):
            weights = mask.weights(teacher)[n] if weighted else torch.full((2, ), 0.5)
            for t in range(2):
                masks = mask(teacher)[n, t] * (mask(student)[n, t] if customise else 1)
                for c in range(3):
                    error = ((masks * student[n, c] - masks * teacher[n, c])**2).sum() / (masks.sum() + 1e-3)
                    total = total + weights[t] * error / 3 / 2
    torch.testing.assert_close(loss(students, teachers, customise), 1.5 * total)


@pytest.mark.parametrize('customise', [False, True])
def test_0_for_equal_maps(customise: bool) -> None:
    _, teachers = _pairs((5, 6), (3, 3))
    assert MasKDLoss([4, 4])(teachers, teachers, customise).item() == 0


def test_linear_in_the_value_of_a_constant_mask() -> None:
    class Constant(ReceptiveTokenMask):
        value = 1.

        def forward(self, feature: torch.Tensor) -> torch.Tensor:
            return torch.full((len(feature), len(self.tokens), *feature.shape[2:]), self.value)

    loss = MasKDLoss([4], eps=0.)
    loss.masks[0] = Constant(4)
    (student, ), (teacher, ) = _pairs((5, 6))
    for Constant.value in (1., 0.5, 0.03):
        expected = Constant.value * (student - teacher).square().mean()
        torch.testing.assert_close(loss([student], [teacher]), expected)


def test_empty_masks_give_no_infinity() -> None:
    loss = MasKDLoss([4])
    nn.init.constant_(loss.masks[0].tokens, 1e4)
    teacher = torch.full((1, 4, 3, 3), -1.)
    student = teacher.clone().requires_grad_()
    value = loss([student], [teacher + 1e-3], customise=True)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_gradient_reaches_students_only_and_does_not_depend_on_frozen_tokens() -> None:
    loss, (students, teachers) = MasKDLoss([4, 4]), _pairs((5, 6), (3, 3))
    students, teachers = ([level.requires_grad_() for level in levels] for levels in (students, teachers))
    for mask in loss.masks:
        nn.init.normal_(mask.tokens)
    frozen = torch.autograd.grad(loss(students, [level.detach() for level in teachers], True), students)
    loss.masks.requires_grad_(True)
    free = torch.autograd.grad(loss(students, [level.detach() for level in teachers], True), students)
    assert all(torch.equal(a, b) for a, b in zip(frozen, free))
    loss(students, teachers, True).backward()
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert all(level.grad.abs().sum() > 0 for level in students)


def test_gradcheck() -> None:
    loss = MasKDLoss([2], 2, eps=1e-2).double()
    (student, ), (teacher, ) = _pairs((2, 3), channels=2)
    teacher = teacher.double()
    assert torch.autograd.gradcheck(lambda x: loss([x], [teacher]), student.double().requires_grad_())


def test_float32_under_autocast() -> None:
    loss, (students, teachers) = MasKDLoss([4]), _pairs((5, 6))
    expected = loss(students, teachers, True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(students, teachers, True)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_levels_must_be_those_of_the_masks() -> None:
    students, teachers = _pairs((5, 6), (3, 3))
    with pytest.raises(ValueError, match='zip'):
        MasKDLoss([4])(students, teachers)
