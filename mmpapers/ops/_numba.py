"""What the numba kernels of :mod:`mmpapers.ops` share: compiler settings, threads, and views of tensors."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def jit(function: Callable | None = None, *, fastmath: bool | set[str] = False) -> Callable:
    """Compile without the interpreter lock, with IEEE division by zero, and keep the machine code on disk.

    A kernel may only call jitted functions of its own file: numba does not notice when another file changes.

    Args:
        function: Kernel over numpy arrays and scalars.
        fastmath: LLVM fast-math flags, e.g. ``{'contract', 'reassoc'}`` for sums whose order is free.
    """
    if function is None:
        return lambda f: jit(f, fastmath=fastmath)
    options = {'nogil': True, 'error_model': 'numpy', 'fastmath': fastmath}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor a cache folder of the user is writable
        return numba.njit(**options)(function)


def parallel(kernel: Callable, n: int, *args: Any, grain: int = 1) -> None:
    """Call ``kernel(start, stop, *args)`` so that the ranges cover ``range(n)``, on torch's number of threads.

    The threads end with the call. numba's own ``parallel=True`` leaves an OpenMP pool behind, with which a data loader
    worker that is forked later aborts.

    Args:
        kernel: Function of :func:`jit`; calls on disjoint ranges must not write to the same place.
        n: Length of the range.
        grain: Fewest items that are worth a thread of their own.
    """
    threads = max(1, min(torch.get_num_threads(), n // grain))
    bounds = [n * i // threads for i in range(threads + 1)]
    if threads == 1:
        kernel(0, n, *args)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, a, b, *args) for a, b in zip(bounds, bounds[1:])]:
            done.result()


def native(tensor: Tensor) -> bool:
    """Whether the numba kernels take a tensor; torch serves the others. Tests replace this to run torch on the CPU."""
    return tensor.device.type == 'cpu'


def widen(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 tensors as float32 and others as they are, detached."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def array(tensor: Tensor) -> np.ndarray:
    """Return a C-contiguous array of a CPU tensor, in float32 at least; shares memory where it can."""
    return widen(tensor).contiguous().numpy()


@contextmanager
def accumulator(target: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Give a contiguous tensor of a type to add to; what it gathers ends up in ``target``.

    Args:
        target: Gradient to add to, of any layout; given itself where it fits.
        dtype: Type of the sums.
    """
    if target.dtype == dtype and target.is_contiguous():
        yield target.detach()
        return
    total = torch.zeros(target.shape, dtype=dtype, device=target.device)
    yield total
    target += total.to(target.dtype)
