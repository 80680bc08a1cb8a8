"""Automatic mixed precision without a loss scaler: what ``--amp`` means on CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from mmpapers.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Run forward and loss under ``torch.autocast``; weights and gradients stay float32.

    mmengine's ``AmpOptimWrapper`` refuses to be built without CUDA. bfloat16 has float32's range, so no loss scaler is
    needed.

    Args:
        dtype: 'bfloat16' (the only one that trains without a scaler).
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, dtype: str = 'bfloat16', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dtype != 'bfloat16':
            raise ValueError(f'optim_wrapper.dtype={dtype!r}: AutocastOptimWrapper has no loss scaler and takes '
                             "'bfloat16' only; use AmpOptimWrapper on CUDA for float16")

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the model's device, besides what the parent does for gradient accumulation."""
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield
