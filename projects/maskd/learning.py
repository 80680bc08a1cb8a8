"""Both stages of MasKD in one run: masks are learned before the student's first step (header: ``masks.py``)."""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmpapers.distill import DistillError
from mmpapers.distill.distiller import HELPERS
from mmpapers.hooks.val_loss import frozen_state
from mmpapers.registry import HOOKS

from .draw import sheet
from .learner import MaskLearner
from .masks import load_masks, save_masks


@dataclass(frozen=True)
class MaskTraining:
    """How masks are learned.

    Args:
        iters: Steps, each on a batch of the student's training loader.
        optimizer: Optimizer of the mask modules.
        schedule: ``'cosine'`` (to 1e-6) or ``'poly'`` (power 0.9, to 0) of the learning rate.
        file: Where masks are saved, and taken from if the file exists; ``<work_dir>/masks.pth`` by default.
        pictures: Images to draw masks on, below ``<work_dir>/masks``.
    """

    iters: int = 2000
    optimizer: dict[str, Any] = field(default_factory=lambda: dict(type='Adam', lr=0.01, weight_decay=0.001))
    schedule: str = 'cosine'
    file: str | None = None
    pictures: int = 4

    @classmethod
    def build(cls, setting: dict[str, Any], segmentation: bool) -> 'MaskTraining':
        """Complete a config value; what it leaves out is that of the official code for the kind of model.

        Raises:
            DistillError: If it names something else.
        """
        known = dict(iters=10000, optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.001),
                     schedule='poly') if segmentation else {}
        unknown = sorted(set(setting) - set(cls.__dataclass_fields__))
        if unknown or setting.get('schedule', 'poly') not in ('cosine', 'poly'):
            raise DistillError(f'distill.masks={setting!r}: give any of {", ".join(cls.__dataclass_fields__)}; '
                               "schedule is 'cosine' or 'poly'")
        return cls(**{**known, **setting})

    def rate(self, step: int) -> float:
        """The learning rate of a step, relative to the optimizer's."""
        left, lowest = 1 - step / self.iters, 1e-6 / self.optimizer['lr']
        return left**0.9 if self.schedule == 'poly' else lowest + (1 - lowest) * (1 - math.cos(math.pi * left)) / 2


def learn(learner: MaskLearner, batches: Iterator[dict], settings: MaskTraining, say: Callable[[str], None]) -> None:
    """Train masks; processes average their gradients.

    Args:
        learner: Model whose masks are trained; they are frozen again afterwards.
        batches: Training batches.
        settings: How.
        say: Told the losses now and then.

    Raises:
        DistillError: If a loss is not finite.
    """
    parameters = list(learner.masks.requires_grad_(True).parameters())
    optimizer = OPTIMIZERS.build({**settings.optimizer, 'params': parameters})
    spoken = time.monotonic()
    try:
        for step, batch in zip(range(settings.iters), batches):
            for group in optimizer.param_groups:
                group['lr'] = settings.optimizer['lr'] * settings.rate(step)
            total, terms = learner.parse_losses(learner(**learner.data_preprocessor(batch, True), mode='loss'))
            if not torch.isfinite(total):
                values = ', '.join(f'{name} {value.item():.4g}' for name, value in terms.items())
                raise DistillError(f'step {step + 1} of learning masks: the loss is not finite ({values}); lower '
                                   'distill.masks.optimizer.lr, or test the teacher on this data')
            optimizer.zero_grad()
            total.backward()
            for parameter in parameters:
                if parameter.grad is not None:  # a level that no head reads has no token weights to learn
                    dist.all_reduce(parameter.grad, 'mean')
            optimizer.step()
            if step in (0, settings.iters - 1) or time.monotonic() - spoken > 30:
                spoken = time.monotonic()
                diversity = terms['loss_diversity'].item()
                say(f'masks: step {step + 1} of {settings.iters}  task loss {total.item() - diversity:.4f}  '
                    f'diversity {diversity:.4f}')
    finally:
        optimizer.zero_grad()  # the student's optimizer has these parameters too, and would step along what is left
        learner.masks.requires_grad_(False)


def endless(loader: DataLoader) -> Iterator[dict]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


@HOOKS.register_module()
class LearnMasksHook(Hook):
    """Learn the masks of ``MasKD`` before training, unless a file or the resumed checkpoint has them.

    The short form adds this hook by itself; a config in long form, for another toolbox's ``train.py``, says
    ``custom_hooks = [dict(type='mmpapers.LearnMasksHook')]``. Masks are learned on a data loader of their own, and all
    random states are put back: the student trains as if the masks had been there before.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Learn, save and draw.

        Raises:
            DistillError: If masks are to be learned and the config has no training loader.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        settings = getattr(model, 'mask_training', None)
        if settings is None or not model.distilling:
            return
        say = next((hook.say for hook in runner.hooks if type(hook).__name__ == 'ProgressHook'), runner.logger.info)
        resumed = runner.message_hub.runtime_info.get(HELPERS) or {}
        if resumed.get('maskd.learned'):
            say('masks: taken from the resumed checkpoint')
            return
        file = Path(settings.file or Path(runner.work_dir) / 'masks.pth')
        found = [file.is_file()]
        dist.broadcast_object_list(found)
        loss = model.helpers['maskd']
        if found[0]:
            load_masks(loss.masks, file, model.teacher.model, 'distill.masks.file')
            say(f'masks: taken from {file}')
        else:
            self._learn(runner, model, loss.masks, settings, file, say)
        loss.learned.fill_(True)

    def _learn(self, runner: Runner, model: nn.Module, masks: nn.ModuleList, settings: MaskTraining, file: Path,
               say: Callable[[str], None]) -> None:
        """Learn and leave no trace but the masks."""
        config = runner.cfg.get('train_dataloader')
        if not isinstance(config, dict):
            raise DistillError("distill.masks='learn' needs train_dataloader as a dict in the config; else learn masks "
                               "first (mmpapers.MaskLearner) and give their file: masks='masks.pth'")
        learner = MaskLearner(model.teacher, tap=model.mask_tap, masks=masks)
        learner.to(next(model.parameters()).device)
        seed = int(runner.seed or 0)
        with frozen_state(learner.teacher.model):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            loader = runner.build_dataloader(_without_lasting_workers(config), seed=seed)
            batches = endless(loader)
            learn(learner, batches, settings, say)
            if dist.is_main_process():
                save_masks(masks, learner.teacher.model, file)
                drawn = sheet(learner, next(batches), Path(runner.work_dir) / 'masks', settings.pictures)
                say(f'masks: saved as {file}' + (f'; pictures in {drawn[0].parent}' if drawn else ''))
        dist.barrier()


def _without_lasting_workers(loader: dict) -> dict:
    """A loader's config, without workers that would outlive their use."""
    loader = Config(dict(loader=loader)).loader.to_dict()
    loader['persistent_workers'] = False
    return loader
