"""DISTLoss against a loop, the recorded official losses, and the properties of the paper's formulas."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmpapers.projects.dist.loss import DISTLoss, pearson

pytestmark = pytest.mark.core
PARITY = np.load(Path(__file__).parents[2] / 'data/parity/dist.npz')


def recorded(name: str) -> Tensor:
    return torch.from_numpy(PARITY[name])


def loop(student: np.ndarray, teacher: np.ndarray, beta: float = 1., gamma: float = 1.) -> float:
    """The formulas, one row and one column after another, from probabilities (N, C)."""
    def rho(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / (np.sqrt((a**2).sum()) * np.sqrt((b**2).sum()) + 1e-8)
    inter = 1 - np.mean([rho(a, b) for a, b in zip(student, teacher)])
    intra = 1 - np.mean([rho(a, b) for a, b in zip(student.T, teacher.T)])
    return beta * inter + gamma * intra


def test_is_the_loop_over_rows_and_columns() -> None:
    student, teacher = 2 * torch.randn(2, 9, 5, dtype=torch.float64)
    expected = loop(*((logits / 3).softmax(1).numpy() for logits in (student, teacher)), beta=.5, gamma=2.)
    assert DISTLoss(beta=.5, gamma=2., tau=3.)(student, teacher).item() == pytest.approx(9 * expected, rel=1e-10)
    plain = DISTLoss(beta=.5, gamma=2., tau=3., tau_squared=False, loss_weight=2.)(student, teacher)
    assert plain.item() == pytest.approx(2 * expected, rel=1e-10)


@pytest.mark.parametrize(('name', 'inputs', 'settings'), [
    ('rows', 'input_rows', {}),  # image_classification_sota
    ('rows_tau4', 'input_rows', dict(beta=2., gamma=.5, tau=4.)),
    ('maps', 'input_maps', {}),  # DIST_KD, segmentation
    ('maps_sigmoid', 'input_maps', dict(gamma=2., activation='sigmoid', loss_weight=.5)),  # MasKD, dense heads
])
def test_is_the_official_loss(name: str, inputs: str, settings: dict) -> None:
    student, teacher = recorded(inputs)
    student.requires_grad_()
    loss = DISTLoss(**settings)(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), recorded(name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(student.grad, recorded(f'{name}_gradient'), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_the_teachers_own_logits_give_zero(activation: str) -> None:
    logits = torch.randn(8, 6)
    assert DISTLoss(activation=activation)(logits, logits.clone()).item() == pytest.approx(0, abs=1e-6)


def test_correlation_keeps_under_positive_affine_maps_of_probabilities() -> None:
    first, second = torch.rand(2, 9, 5, dtype=torch.float64)
    for dim, shape in ((1, (9, 1)), (0, (1, 5))):
        scale, shift = torch.rand(2, *shape, dtype=torch.float64) + .1
        moved = pearson(scale * first + shift, second, dim)
        torch.testing.assert_close(moved, pearson(first, second, dim), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pearson(-first, second, dim), -pearson(first, second, dim))


def test_logits_may_be_shifted_but_not_scaled() -> None:
    student, teacher = 2 * torch.randn(2, 9, 5, dtype=torch.float64)
    loss = DISTLoss()
    shifted = loss(student + torch.randn(9, 1, dtype=torch.float64), teacher)
    torch.testing.assert_close(shifted, loss(student, teacher))
    assert abs(loss(2 * student, teacher) - loss(student, teacher)) > 1e-3


def test_each_part_lies_between_0_and_2() -> None:
    teacher = torch.randn(12, 2, dtype=torch.float64)
    for weights in (dict(beta=1., gamma=0.), dict(beta=0., gamma=1.)):
        loss = DISTLoss(**weights)
        assert loss(-teacher, teacher).item() == pytest.approx(2, abs=1e-5)  # two classes, exchanged
        assert all(-1e-9 < loss(torch.randn(12, 2, dtype=torch.float64), teacher) < 2 + 1e-9 for _ in range(20))


def test_one_sample_warns_and_its_intra_part_is_1() -> None:
    student, teacher = torch.randn(2, 1, 5)
    with pytest.warns(UserWarning, match='one sample, for which L_intra is 1'):
        assert DISTLoss(beta=0.)(student, teacher).item() == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        DISTLoss()(torch.randn(1, 5, 2, 2), torch.randn(1, 5, 2, 2))


def test_maps_are_rows_in_any_order() -> None:
    student, teacher = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
    loss = DISTLoss()
    flat = [maps.permute(0, 2, 3, 1).reshape(-1, 5) for maps in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*flat))
    order = torch.randperm(12)
    shuffled = [maps.flatten(2)[..., order].reshape(2, 5, 4, 3) for maps in (student, teacher)]
    torch.testing.assert_close(loss(*shuffled), loss(student, teacher))


def test_anchors_become_samples() -> None:
    student, teacher = torch.randn(2, 2, 3 * 4, 3, 2, dtype=torch.float64)
    split = DISTLoss(num_anchors=3, activation='sigmoid')
    # mmdet reads a dense head's maps so: (B, A * C, H, W) -> (B, H * W * A, C)
    flat = [maps.permute(0, 2, 3, 1).reshape(-1, 4) for maps in (student, teacher)]
    torch.testing.assert_close(split(student, teacher), DISTLoss(activation='sigmoid')(*flat))
    assert abs(split(student, teacher) - DISTLoss(activation='sigmoid')(student, teacher)) > 1e-3
    mask = torch.rand(2, 3, 2) > .5
    kept = [maps.permute(0, 2, 3, 1)[mask].reshape(-1, 4) for maps in (student, teacher)]
    torch.testing.assert_close(split(student, teacher, mask), DISTLoss(activation='sigmoid')(*kept))


def test_a_mask_drops_samples() -> None:
    student, teacher = torch.randn(2, 9, 5, requires_grad=True)
    mask = torch.arange(9) % 2 == 0
    torch.testing.assert_close(DISTLoss()(student, teacher, mask), DISTLoss()(student[mask], teacher[mask]))
    none = DISTLoss()(student, teacher, torch.zeros(9, dtype=torch.bool))
    assert none == 0 and none.requires_grad


def test_no_gradient_reaches_the_teacher_and_half_precision_is_left() -> None:
    student, teacher = torch.randn(2, 6, 5)
    student, teacher = student.half().requires_grad_(), teacher.half().requires_grad_()
    loss = DISTLoss(tau=4.)(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32 and teacher.grad is None and student.grad.dtype == torch.float16
    torch.testing.assert_close(loss, DISTLoss(tau=4.)(student.float(), teacher.float()))


def test_constant_rows_and_absent_classes_give_finite_gradients() -> None:
    student = torch.zeros(6, 5, requires_grad=True)  # all rows and columns constant
    teacher = torch.full((6, 5), -200.)
    teacher[:, 0] = 200.  # one-hot: the other classes have probability 0 everywhere
    for loss in (DISTLoss(), DISTLoss(activation='sigmoid')):
        student.grad = None
        loss(student, teacher).backward()
        assert torch.isfinite(student.grad).all()
    assert torch.equal(pearson(torch.ones(4, 3), torch.rand(4, 3), 0), torch.zeros(3))


def test_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: DISTLoss(tau=2.)(z, teacher), student.requires_grad_())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="activation='tanh'; choose 'softmax' or 'sigmoid'"):
        DISTLoss(activation='tanh')
    with pytest.raises(ValueError, match='tau=0 must be positive and num_anchors=1 at least 1'):
        DISTLoss(tau=0)
    for student, teacher in ((torch.rand(3, 4), torch.rand(3, 5)), (torch.rand(3, 4, 2), torch.rand(3, 4, 2))):
        with pytest.raises(ValueError, match=r'two tensors \(N, C\) or \(B, C, H, W\) of one shape'):
            DISTLoss()(student, teacher)
    with pytest.raises(ValueError, match='a multiple of num_anchors=3'):
        DISTLoss(num_anchors=3)(torch.rand(2, 4), torch.rand(2, 4))
    with pytest.raises(ValueError, match=r'valid_mask \(3,\) does not fit \(2, 4\)'):
        DISTLoss()(torch.rand(2, 4), torch.rand(2, 4), torch.ones(3, dtype=torch.bool))


def test_is_registered() -> None:
    loss = MODELS.build(dict(type='mmpapers.DISTLoss', tau=4.))
    assert loss.factor == 16


PROCESS = """
import sys
import torch
from mmpapers.projects.dist.loss import DISTLoss
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
student, teacher = torch.load(f'{folder}/inputs.pt')
mine = slice(0, 4) if rank == 0 else slice(4, 8)
local = student[mine].clone().requires_grad_()
loss = DISTLoss(sync=True)(local, teacher[mine])
loss.backward()
mine = slice(0, 8) if rank == 0 else slice(8, 8)
uneven = DISTLoss(beta=0., sync=True)(student[mine], teacher[mine])
torch.save((loss.detach(), local.grad, uneven), f'{folder}/{rank}.pt')
torch.distributed.destroy_process_group()
"""


def test_two_processes_with_sync_are_one_with_all_samples(tmp_path: Path) -> None:
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64)
    torch.save((student, teacher), tmp_path / 'inputs.pt')
    runs = [subprocess.Popen([sys.executable, '-c', PROCESS, str(tmp_path), str(rank)]) for rank in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    student.requires_grad_()
    loss = DISTLoss()(student, teacher)
    loss.backward()
    torch.testing.assert_close((first[0] + second[0]) / 2, loss.detach())
    torch.testing.assert_close(torch.cat((first[1], second[1])) / 2, student.grad)  # DDP takes the mean over processes
    intra = DISTLoss(beta=0.)(student, teacher).detach()  # one process may have no sample at all
    torch.testing.assert_close(torch.stack((first[2], second[2])), torch.stack((intra, intra)))
