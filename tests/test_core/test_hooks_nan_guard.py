"""Training stops before a value that is not finite reaches the weights."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmpapers.hooks.nan_guard import NaNGuardHook, NonFiniteError

pytestmark = pytest.mark.core


class Poisoned(BaseModel):
    """Two loss terms; the second is ``bad`` at step ``when``, or has an infinite gradient there."""

    def __init__(self, when: int, bad: float = float('nan'), gradient_only: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.when, self.bad, self.gradient_only, self.step = when, bad, gradient_only, 0

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'loss') -> dict[str, Tensor]:
        self.step += 1
        out = self.layer(torch.stack(list(inputs))).square().mean()
        spoilt = self.step == self.when
        if spoilt and self.gradient_only:
            return dict(loss_cls=out, loss_box=(self.layer.weight * 0).sum().sqrt())  # 0, with an infinite slope
        return dict(loss_cls=out, loss_box=out * (self.bad if spoilt else 1.))


def train(model: BaseModel, work_dir: Path, hook: NaNGuardHook, wrapper: dict | None = None) -> Runner:
    """Six steps on named images, a checkpoint after every second."""
    data = [dict(inputs=torch.tensor([float(i)]), data_samples=SimpleNamespace(img_path=f'images/{i}.jpg'))
            for i in range(6)]
    runner = Runner(
        model, str(work_dir), train_dataloader=DataLoader(data, 2, collate_fn=lambda rows: dict(
            inputs=[r['inputs'] for r in rows], data_samples=[r['data_samples'] for r in rows])),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=wrapper or dict(optimizer=dict(type='SGD', lr=0.01)), custom_hooks=[hook],
        param_scheduler=dict(type='LinearLR', start_factor=0.999, by_epoch=False, begin=0, end=9),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        experiment_name=f'nan_{work_dir.name}')
    runner.train()
    return runner


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), float('-inf')])
def test_a_bad_loss_stops_training_and_names_step_term_and_images(tmp_path: Path, bad: float) -> None:
    model = Poisoned(4, bad)
    reference = copy.deepcopy(model)
    reference.when = -1
    with pytest.raises(NonFiniteError) as error:
        train(model, tmp_path / 'run', NaNGuardHook())
    text = str(error.value)
    assert 'before step 4 (epoch 2)' in text and f'loss_box = {bad:g}' in text and 'loss_cls' not in text
    assert 'images/0.jpg, images/1.jpg' in text and 'iter_2.pth' in text
    optimizer = torch.optim.SGD(reference.parameters(), 0.01)  # the scheduler changes the LR by 0.1 % only
    for batch in ([0., 1.], [2., 3.], [4., 5.]):
        optimizer.zero_grad()
        sum(reference([torch.tensor([x]) for x in batch]).values()).backward()
        optimizer.step()
    assert torch.allclose(model.layer.weight, reference.layer.weight, atol=1e-3)
    assert torch.isfinite(model.layer.bias).all()
    assert (tmp_path / 'run/iter_2.pth').is_file() and not (tmp_path / 'run/iter_4.pth').exists()


def test_a_finite_loss_with_an_infinite_gradient_stops_too(tmp_path: Path) -> None:
    model = Poisoned(2, gradient_only=True)
    with pytest.raises(NonFiniteError, match=r'before step 2 .*the gradient of layer.weight'):
        train(model, tmp_path / 'run', NaNGuardHook())
    assert torch.isfinite(model.layer.weight).all()


def test_a_sound_training_is_untouched(tmp_path: Path, recwarn) -> None:
    torch.manual_seed(1)
    guarded, plain = Poisoned(-1), Poisoned(-1)
    plain.load_state_dict(guarded.state_dict())
    train(guarded, tmp_path / 'guarded', NaNGuardHook())
    off = NaNGuardHook(check_gradients=False)
    off.before_train = lambda runner: None
    train(plain, tmp_path / 'plain', off)
    assert not [w for w in recwarn if 'optimizer.step' in str(w.message)], 'the scheduler misses its mark'
    assert torch.equal(guarded.layer.weight, plain.layer.weight)


def test_a_loss_scaler_may_overflow_a_few_times_in_a_row() -> None:
    hook, calls = NaNGuardHook(max_overflows=2), []
    wrapper = SimpleNamespace(loss_scaler=SimpleNamespace(is_enabled=lambda: True))
    runner = SimpleNamespace(iter=0, epoch=0, message_hub=SimpleNamespace(runtime_info={}))
    bad, good = torch.tensor(float('inf')), torch.tensor(1.)
    for loss in (bad, bad, good, bad, bad):
        hook._check_loss(runner, wrapper, calls.append, loss)
    assert len(calls) == 5
    with pytest.raises(NonFiniteError, match='none was saved yet'):
        hook._check_loss(runner, wrapper, calls.append, bad)
    assert len(calls) == 5
