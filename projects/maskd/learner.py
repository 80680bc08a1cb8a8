"""MasKD's first stage: masks are trained with the frozen teacher's own task loss (header: ``masks.py``)."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from mmpapers.distill import DistillError, Teacher, network
from mmpapers.distill.presets import family, preset
from mmpapers.distill.sources import Source
from mmpapers.distill.taps import Tap, Taps
from mmpapers.hooks.val_loss import loss_mode
from mmpapers.registry import MODELS

from .masks import ReceptiveTokenMask, dice_diversity, load_masks, signature


def defaults(model: nn.Module) -> tuple[str, int, bool]:
    """The role whose maps are masked, the number of tokens and whether they have weights, as in the official code.

    Args:
        model: The teacher (or student).

    Returns:
        ``('logits', 8, False)`` for segmentors, ``('features', 6, True)`` for all others.
    """
    return ('logits', 8, False) if family(model) == 'segmentor' else ('features', 6, True)


@MODELS.register_module()
class MaskLearner(BaseModel):
    """A trained model that sees its own features through masks; only the masks are trained.

    Each level of the tapped module is replaced by ``sum_t weight_t mask_t F`` before the heads read it. The losses are
    the teacher's own and the masks' diversity. A checkpoint holds the masks and nothing of the teacher; predictions are
    the teacher's on masked features.

    Args:
        teacher: Config file, ``'mmdet::...'``, ``Config``, dict or built model of the teacher, or a
            :class:`~mmpapers.distill.Teacher`.
        checkpoint: The teacher's weights; ``'random'`` asks for an untrained one.
        tap: Module whose output is masked; by default the neck, and a segmentor's logits.
        num_tokens: Masks a level; by default 6, and 8 for segmentors.
        token_weights: See :class:`ReceptiveTokenMask`; by default for all but segmentors.
        diversity: Weight of the diversity, summed over levels (1 in the official code).
        masks: File of masks to start with, or the modules themselves.
        strict: Whether the teacher's checkpoint must fit key by key.

    Raises:
        DistillError: If the teacher or its weights are wrong, or the tap gives no maps.
    """

    def __init__(self, teacher: Source | Teacher, checkpoint: str | None = None, tap: str | None = None,
                 num_tokens: int | None = None, token_weights: bool | None = None, diversity: float = 1.,
                 masks: str | nn.ModuleList | None = None, strict: bool = True) -> None:
        holder = teacher if isinstance(teacher, Teacher) else Teacher(teacher, checkpoint, strict)
        super().__init__(data_preprocessor=holder.model.data_preprocessor)
        self.teacher = holder
        self.diversity = diversity
        role, tokens, weighted = defaults(holder.model)
        text = tap or preset(holder.model).get(role)
        if text is None:
            raise DistillError(f'the teacher {type(holder.model).__name__} has no preset for what to mask; name the '
                               "module whose maps its heads read: tap='neck'")
        self.tap = Tap.parse(text)
        if isinstance(masks, nn.ModuleList):
            self.masks = masks
        else:
            widths = self._widths(text)
            self.masks = nn.ModuleList(ReceptiveTokenMask(width, num_tokens or tokens, weighted if token_weights is None
                                                          else token_weights) for width in widths)
        self.register_buffer('signature', signature(holder.model))
        if isinstance(masks, str):
            load_masks(self.masks, masks, holder.model, 'model.masks')

    def forward(self, inputs: Any, data_samples: Sequence | None = None, mode: str = 'tensor') -> Any:
        """Run the teacher on masked features.

        Args:
            inputs: Preprocessed inputs of the teacher.
            data_samples: Data samples, with labels in mode ``'loss'``.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.

        Returns:
            The teacher's losses and ``loss_diversity`` (a list, one a level); its predictions; or the masks, each
            (N, T, H, W).
        """
        model = self.teacher.model
        with self.masking() as seen:
            if mode == 'tensor':
                network.run(model, inputs, data_samples)
                return [masks for masks, _ in seen]
            if mode == 'predict':
                return model.predict(inputs, data_samples)
            try:
                loss_mode(model)  # heads may decode differently in training; statistics and dropout stay as in testing
                losses = model.loss(inputs, data_samples)
            finally:
                model.eval()
        return {**losses, 'loss_diversity': [self.diversity * dice_diversity(masks) for masks, _ in seen]}

    @contextlib.contextmanager
    def masking(self) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        """Mask the tapped levels while the block runs.

        Yields:
            A list that gets the masks (N, T, H, W) and their weights (N, T) of each level.
        """
        module = self.teacher.model.get_submodule(self.tap.path)
        before, forward, seen = module.__dict__.get('forward'), module.forward, []

        def masked(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            levels = [output] if isinstance(output, Tensor) else list(output)
            for mask, level in zip(self.masks, self._chosen(len(levels)), strict=True):
                levels[level], masks, weights = mask.reconstruct(levels[level])
                seen.append((masks, weights))
            return levels[0] if isinstance(output, Tensor) else type(output)(levels)

        module.forward = masked
        try:
            yield seen
        finally:
            module.__dict__.pop('forward')
            if before is not None:
                module.forward = before

    def _chosen(self, count: int) -> list[int]:
        """Indices of the levels that the tap names."""
        levels = list(range(count))
        if self.tap.index is None:
            return levels
        return levels[self.tap.index] if isinstance(self.tap.index, slice) else [levels[self.tap.index]]

    def _widths(self, text: str) -> list[int]:
        """Channels of the tapped levels, from a dry run."""
        teacher = self.teacher
        teacher.taps = Taps(teacher.model, [text], 'teacher')
        maps = teacher.rehearse()[text]
        plain = teacher.taps.events == 1 and not self.tap.inward and self.tap.tokens is None
        if not plain or any(level.dim() != 4 for level in maps):
            raise DistillError(f"tap={text!r}: masks need the output of a module that is called once and gives maps "
                               "(B, C, H, W), such as 'neck', 'neck[:3]' or 'decode_head'")
        return [level.shape[1] for level in maps]

    def _apply(self, function: Any) -> nn.Module:
        """Move the teacher along."""
        if self.__dict__.get('teacher') is not None:
            self.teacher.apply(function)
        return super()._apply(function)

