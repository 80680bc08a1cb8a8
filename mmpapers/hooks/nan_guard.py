"""Stop a training before a loss or gradient that is not finite reaches the weights."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from mmpapers.registry import HOOKS


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the weights have not been touched by it."""


@HOOKS.register_module()
class NaNGuardHook(Hook):
    """Check every loss before backward and every gradient before the optimizer steps.

    One value per step is read from the device for the loss, as mmengine's own logging does, and one for all gradients.
    The message names the step, the loss terms and the images. Checkpoints written before are untouched.

    Args:
        max_overflows: Consecutive steps with a non-finite loss that are tolerated while a loss scaler is in use; the
            scaler itself skips those steps and lowers its scale. Without a scaler (fp32, bfloat16) none is tolerated.
        check_gradients: Whether to check gradients too (a finite loss can have an infinite gradient).
    """

    priority = 'VERY_HIGH'

    def __init__(self, max_overflows: int = 10, check_gradients: bool = True) -> None:
        self.max_overflows = max_overflows
        self.check_gradients = check_gradients
        self.overflows = 0
        self._terms: Mapping[str, Tensor] = {}
        self._batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Put the checks around the model's ``parse_losses`` and the optimizer wrapper's updates."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.parse_losses = partial(self._keep_terms, model.parse_losses)
        wrappers = runner.optim_wrapper
        for wrapper in wrappers.values() if isinstance(wrappers, OptimWrapperDict) else [wrappers]:
            wrapper.update_params = partial(self._check_loss, runner, wrapper, wrapper.update_params)
            if self.check_gradients:
                # Schedulers leave a mark on ``step`` and warn when it is gone; update_wrapper copies it.
                wrapper.step = update_wrapper(partial(self._check_gradients, runner, wrapper, wrapper.step),
                                              wrapper.step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember the batch, for its images' names, and forget the terms of the last step."""
        self._batch, self._terms = data_batch, {}

    def _keep_terms(self, parse_losses: Callable, losses: dict) -> tuple[Tensor, dict]:
        """Remember the terms of the loss."""
        total, terms = parse_losses(losses)
        self._terms = {name: torch.as_tensor(value).detach() for name, value in terms.items()}
        return total, terms

    def _check_loss(self, runner: Runner, wrapper: Any, update: Callable, loss: Tensor, *args: Any, **kwargs: Any
                    ) -> None:
        """Raise instead of running backward on a loss that is not finite."""
        if torch.isfinite(loss.detach()):
            self.overflows = 0
        elif not _has_scaler(wrapper) or self.overflows >= self.max_overflows:
            bad = [f'{name} = {float(value):g}' for name, value in self._terms.items()
                   if name != 'loss' and not torch.isfinite(value)]
            raise NonFiniteError(self._message(runner, f'the loss is {float(loss.detach()):g}'
                                               + (f' ({", ".join(bad)})' if bad else '')))
        else:
            self.overflows += 1
        update(loss, *args, **kwargs)

    def _check_gradients(self, runner: Runner, wrapper: Any, step: Callable, *args: Any, **kwargs: Any) -> None:
        """Raise instead of stepping with a gradient that is not finite; with a loss scaler it is the scaler's task."""
        if not _has_scaler(wrapper):
            named = runner.model.named_parameters()
            gradients = [(name, p.grad) for name, p in named if p.grad is not None]
            if gradients:
                norms = torch.stack(torch._foreach_norm([g for _, g in gradients], ord=float('inf')))
                if not torch.isfinite(norms.sum()):
                    bad = [name.removeprefix('module.') for (name, _), norm in zip(gradients, norms)
                           if not torch.isfinite(norm)]
                    raise NonFiniteError(self._message(
                        runner, f'the gradient of {bad[0]} (and of {len(bad) - 1} more parameters) is not finite '
                                'although the loss is; the loss may have been non-finite on another process'))
        step(*args, **kwargs)

    def _message(self, runner: Runner, what: str) -> str:
        """The whole sentence: step, terms, images, what is kept and what to try."""
        images = _images(self._batch)
        shown = f' on the images {", ".join(images[:8])}' if images else ''
        kept = runner.message_hub.get_info('last_ckpt') if 'last_ckpt' in runner.message_hub.runtime_info else None
        return (f'training stopped before step {runner.iter + 1} (epoch {runner.epoch + 1}) could spoil the weights: '
                f'{what}{shown}. Last good checkpoint: {kept or "none was saved yet"}. '
                'Try a lower LR, a warm-up or optim_wrapper.clip_grad=dict(max_norm=35).')


def _has_scaler(wrapper: Any) -> bool:
    """Whether a loss scaler looks after overflows."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled()


def _images(batch: Any) -> list[str]:
    """Paths (or ids) of the images of a batch in mmengine's usual forms; empty if it has another form."""
    samples = batch.get('data_samples', []) if isinstance(batch, Mapping) else batch
    if not isinstance(samples, Sequence):
        samples = [samples]
    meta = [s['data_samples'] if isinstance(s, Mapping) and 'data_samples' in s else s for s in samples]
    names = [getattr(s, 'img_path', None) or getattr(s, 'lidar_path', None) or getattr(s, 'img_id', None)
             for s in meta]
    return [str(name) for name in names if name is not None]
