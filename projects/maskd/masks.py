"""Receptive tokens: masks over a feature map, found by asking the teacher where its own task needs it.

Masked Distillation with Receptive Tokens, ICLR 2023, https://arxiv.org/abs/2205.14589
Official code: https://github.com/hunto/MasKD at b5af34f, Apache-2.0; its mask files can be loaded.
Differences: the same values without an (N, T, C, H, W) tensor and without the 3x3 convolution over the map; masks are
computed in float32; a file knows the teacher that its masks were learned on.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmpapers.distill import DistillError

_ENTRY = re.compile(r'(?:^|\.)(?:masks|mask_modules)\.(\d+)\.(.+)$')
_OFFICIAL = {'mask_token': 'tokens', 'prob.0.': 'context.', 'prob.2.': 'score.'}


class ReceptiveTokenMask(nn.Module):
    """Soft masks of one level, ``sigmoid(E F)`` for tokens E (T, C) and a map F (C, H * W), and how much each matters.

    Args:
        channels: Channels C of the map.
        num_tokens: Number of masks T; 6 for detectors and 8 for segmentors (official code).
        token_weights: Whether a mask has a weight that depends on the image: the softmax over T of a 3x3 convolution,
            global average pooling and a 1x1 convolution, with no activation between them (official code, detection).
    """

    def __init__(self, channels: int, num_tokens: int = 6, token_weights: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_tokens, channels) * 0.01)
        self.context = self.score = None
        if token_weights:
            self.context = nn.Conv2d(channels, channels, 3, padding=1)
            self.score = nn.Conv2d(channels, num_tokens, 1)
            for layer in (self.context, self.score):
                fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_out))
                nn.init.zeros_(layer.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Compute the masks.

        Args:
            feature: Map (N, C, H, W) of any floating type.

        Returns:
            Masks (N, T, H, W) in (0, 1), at least float32.
        """
        with torch.autocast(feature.device.type, enabled=False):
            feature = _exact(feature)
            return torch.einsum('tc,nchw->nthw', self.tokens.to(feature.dtype), feature).sigmoid()

    def weights(self, feature: Tensor) -> Tensor | None:
        """Compute the weight of each mask.

        Args:
            feature: Map (N, C, H, W).

        Returns:
            Weights (N, T) that sum to 1; None for a module without them.
        """
        if self.score is None:
            return None
        with torch.autocast(feature.device.type, enabled=False):
            feature = _exact(feature)
            # The average of a convolution is the convolution of averages, those of the map shifted by -1, 0 and 1.
            rows = torch.stack([feature[..., :-1].sum(3), feature.sum(3), feature[..., 1:].sum(3)], 3)  # (N, C, H, 3)
            sums = torch.stack([rows[:, :, :-1].sum(2), rows.sum(2), rows[:, :, 1:].sum(2)], 2)  # (N, C, 3, 3)
            means = sums / (feature.shape[2] * feature.shape[3])
            context = torch.einsum('ocij,ncij->no', self.context.weight.to(feature.dtype), means)
            context = context + self.context.bias.to(feature.dtype)
            scores = context @ self.score.weight.flatten(1).t().to(feature.dtype) + self.score.bias.to(feature.dtype)
            return scores.softmax(1)

    def reconstruct(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace a map by what its masks let through: ``sum_t weight_t mask_t F``, all weights 1 if there are none.

        Args:
            feature: Map (N, C, H, W).

        Returns:
            The masked map (N, C, H, W), the masks (N, T, H, W) and their weights (N, T) or None.
        """
        masks, weights = self(feature), self.weights(feature)
        passed = masks.sum(1) if weights is None else torch.einsum('nt,nthw->nhw', weights, masks)
        return feature * passed[:, None].to(feature.dtype), masks, weights


def dice_diversity(masks: Tensor) -> Tensor:
    """How alike the masks of an image are: the Dice coefficient averaged over pairs of different tokens and images.

    Args:
        masks: Masks (N, T, H, W).

    Returns:
        Scalar: 1 if all masks of each image are the same, 0 if no two overlap (or there is only one).
    """
    flat = masks.flatten(2)
    overlaps = flat @ flat.mT  # (N, T, T)
    sizes = overlaps.diagonal(dim1=1, dim2=2)
    dice = 2 * overlaps / (sizes[:, :, None] + sizes[:, None] + 2e-12)
    count = masks.shape[1]
    others = 1 - torch.eye(count, dtype=dice.dtype, device=dice.device)
    return (dice * others).sum() / (len(masks) * max(count * (count - 1), 1))


def signature(teacher: nn.Module) -> Tensor:
    """A number (int64) by which a teacher is known again: 10^6 times the sum of its parameters' absolute values."""
    return torch.stack([p.detach().double().abs().sum().cpu() for p in teacher.parameters()]).sum().mul(1e6).long()


def save_masks(masks: nn.ModuleList, teacher: nn.Module, path: str | Path) -> None:
    """Write masks, and whose they are, to a file that appears only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f'masks.{name}': value.detach().cpu() for name, value in masks.state_dict().items()}
    part = path.with_name(f'{path.name}.part')
    torch.save(dict(state_dict=state | dict(signature=signature(teacher))), part)
    os.replace(part, path)


def load_masks(masks: nn.ModuleList, path: str | Path, teacher: nn.Module | None = None, key: str = 'distill.masks'
               ) -> None:
    """Fill masks from a file.

    Args:
        masks: One module a level, changed in place.
        path: File or URL: what :func:`save_masks` wrote, a checkpoint of ``MaskLearner``, or an official file.
        teacher: The teacher; a file that names another one is refused (official ones name none).
        key: The config key that holds ``path``, for messages.

    Raises:
        DistillError: If there is no such file, or its masks do not fit.
    """
    path = os.fspath(path)
    if '://' not in path and not os.path.isfile(path):
        raise DistillError(f"{key}={path!r} does not exist; {key}='learn' learns the masks before the training")
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = content.get('state_dict', content)
    own, found = masks.state_dict(), {}
    for name, value in state.items():
        match = _ENTRY.search(name)
        level, entry = match.groups() if match else ('0', name)
        for theirs, ours in _OFFICIAL.items():
            entry = entry.replace(theirs, ours)
        if entry == 'tokens' or entry.startswith(('context.', 'score.')):
            found[f'{level}.{entry}'] = value
    tokens = [value for name, value in found.items() if name.endswith('.tokens')]
    if not tokens:
        raise DistillError(f'{key}={path!r} holds no masks')
    if len(tokens) != len(masks):
        raise DistillError(f'{key}={path!r} holds masks of {len(tokens)} levels and the teacher gives {len(masks)}; '
                           'learn masks for these levels, or choose levels in distill.taps')
    for level, (mine, theirs) in enumerate(zip(masks, tokens)):
        _compare(mine.tokens.shape, theirs.shape, f'{key}={path!r}, level {level}')
    if found.keys() != own.keys():
        weighted = any('score' in name for name in found)
        raise DistillError(f'{key}={path!r} was learned {"with" if weighted else "without"} token weights; set '
                           f'token_weights={weighted}')
    mark = state.get('signature')
    if mark is not None and teacher is not None and not math.isclose(mark, signature(teacher), rel_tol=1e-5):
        raise DistillError(f'{key}={path!r} was learned on another teacher than distill.checkpoint gives; masks fit '
                           'one teacher only. Remove or rename the file to learn new ones')
    masks.load_state_dict(found)


def _compare(ours: Sequence[int], theirs: Sequence[int], where: str) -> None:
    """Refuse tokens of another number or width."""
    if theirs[1] != ours[1]:
        raise DistillError(f'{where}: masks for {theirs[1]} channels, and the teacher has {ours[1]}; they were '
                           'learned on another teacher or tap')
    if theirs[0] != ours[0]:
        raise DistillError(f'{where}: {theirs[0]} tokens instead of {ours[0]}; set num_tokens={theirs[0]}')


def _exact(tensor: Tensor) -> Tensor:
    """At least float32: in half precision the sigmoid of a scalar product over many channels saturates."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
