"""``tools/analysis_tools/get_flops.py``: operations and parameters of a model, and what the count leaves out."""

import argparse
import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mmpapers import compat
from mmpapers.dry_run import fake_batch, family
from mmpapers.ops.boundary import ExtFacade

from . import console, runtime
from .check import add_config_arguments
from .inspect_model import add_shape, build_model, forward, parse_shape

# Operators that move, make or name data and compute nothing.
_MOVES = frozenset((
    'cat', 'stack', 'copy_', 'clone', '_to_copy', 'empty', 'empty_like', 'new_empty', 'zeros', 'zeros_like',
    'new_zeros', 'ones', 'ones_like', 'new_ones', 'full', 'full_like', 'new_full', 'arange', 'linspace',
    'scalar_tensor', 'index', 'index_put_', 'index_select', 'gather', 'scatter', 'fill_', 'zero_', 'masked_fill',
    'masked_fill_', 'masked_select', 'nonzero', 'constant_pad_nd', 'reflection_pad2d', 'flip', 'roll', 'repeat',
    'resize_', 'set_', '_local_scalar_dense', 'item', 'lift_fresh', 'lift_fresh_copy', 'is_same_size', 'equal',
    'embedding', 'slice_scatter', 'select_scatter', 'unbind', 'tril', 'triu', 'eye', 'meshgrid', 'detach', 'alias'))


@dataclass
class Flops:
    """Result of a count.

    Args:
        total: Floating point operations of one forward; a multiply-add counts as two.
        modules: Operations of each module, by path.
        params: Number of parameters.
        trainable: Number of those with a gradient.
        uncounted: Operators that compute but were not counted: name to (calls, elements produced).
        kernels: Ops of mmcv outside torch's dispatcher that were not counted: name to calls.
        mode: Forward mode that ran.
    """

    total: int
    modules: dict[str, int]
    params: int
    trainable: int
    uncounted: dict[str, tuple[int, int]]
    kernels: dict[str, int]
    mode: str


@dataclass
class _Watch(TorchDispatchMode):
    """Notes the operators that reach it and that have no formula."""

    calls: Counter = field(default_factory=Counter)
    elements: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.overloadpacket not in flop_registry and not func.is_view and name not in _MOVES \
                and func.namespace != 'prim':
            self.calls[name] += 1
            results = out if isinstance(out, (list, tuple)) else [out]
            self.elements[name] += sum(r.numel() for r in results if isinstance(r, torch.Tensor))
        return out


@contextlib.contextmanager
def _kernels(counter: FlopCounterMode) -> Iterator[Counter]:
    """Count calls of mmcv ops whose kernels ran without any counted operator."""
    import mmcv
    facade, original, calls = mmcv._ext, ExtFacade._call, Counter()

    def call(self: ExtFacade, name: str, *args: Any, **kwargs: Any) -> Any:
        before = counter.get_total_flops()
        out = original(self, name, *args, **kwargs)
        if counter.get_total_flops() == before:
            calls[name] += 1
        return out

    if not isinstance(facade, ExtFacade):
        yield calls
        return

    def forget() -> None:
        """Drop the functions that the facade has bound already."""
        for name in [n for n, value in vars(facade).items() if isinstance(value, functools.partial)]:
            delattr(facade, name)

    forget()
    ExtFacade._call = call
    # mmcv.ops bind the functions of `ext_module` late, at each call, so a fresh look-up reaches `call`.
    try:
        yield calls
    finally:
        ExtFacade._call = original
        forget()


@contextlib.contextmanager
def _by_module(model: nn.Module, counter: FlopCounterMode) -> Iterator[Counter]:
    """Add up the operations inside each module's ``forward``, also where that is called without the module's hooks."""
    tally: Counter = Counter()

    def watched(path: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            before = counter.get_total_flops()
            try:
                return function(*args, **kwargs)
            finally:
                tally[path] += counter.get_total_flops() - before
        return inner

    for path, module in model.named_modules():
        module.forward = watched(path, module.forward)
    try:
        yield tally
    finally:
        for module in model.modules():
            del module.forward


def count(model: nn.Module, batch: dict) -> Flops:
    """Count the operations of one forward.

    Attention is counted whatever kernel torch would choose: fused paths are turned off for the count.

    Args:
        model: The model, in eval mode.
        batch: What :func:`~mmpapers.dry_run.fake_batch` made.

    Returns:
        The count of the last (successful) forward mode.
    """
    params = list(model.parameters())
    trainable = [param for param in params if param.requires_grad]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for param in trainable:
        param.requires_grad_(False)  # the counter's module tracker fails on a leaf that is a module's input
    try:
        with _Watch() as watch, sdpa_kernel(SDPBackend.MATH), \
                FlopCounterMode(display=False) as counter, _kernels(counter) as kernels, \
                _by_module(model, counter) as modules:
            def restart() -> None:
                for tally in (counter.flop_counts, watch.calls, watch.elements, kernels, modules):
                    tally.clear()
            mode = forward(model, batch, before=restart)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for param in trainable:
            param.requires_grad_(True)
    return Flops(counter.get_total_flops(), dict(modules), sum(p.numel() for p in params),
                 sum(p.numel() for p in trainable),
                 {name: (watch.calls[name], watch.elements[name]) for name, _ in watch.elements.most_common()},
                 dict(kernels), mode)


def human(number: float) -> str:
    """Write a number with a unit, e.g. ``'1.82 G'``."""
    for unit in ('', 'K', 'M', 'G', 'T'):
        if abs(number) < 1000 or unit == 'T':
            return f'{number:.4g} {unit}'.strip()
        number /= 1000
    raise AssertionError('unreachable')


def render(result: Flops, name: str, shape: tuple[int, int], depth: int = 1) -> str:
    """Write a count for a person.

    Args:
        result: The count.
        name: Title.
        shape: Image (height, width).
        depth: How many parts the module paths listed may have.
    """
    lines = [f'{name}: input 1 x 3 x {shape[0]} x {shape[1]}, forward mode {result.mode!r}',
             f'  FLOPs       {human(result.total):>10}   {result.total:,}  (a multiply-add is two)',
             f'  MACs        {human(result.total / 2):>10}   {result.total // 2:,}',
             f'  parameters  {human(result.params):>10}   {result.params:,}  ({result.trainable:,} trainable)', '']
    rows = sorted((path, number) for path, number in result.modules.items()
                  if path and path.count('.') < depth and number)
    width = max((len(path) for path, _ in rows), default=0)
    lines += [f'  {path:{width}}  {human(number):>10}  {number / max(result.total, 1):6.1%}' for path, number in rows]
    lines.append('')
    if result.kernels:
        lines += ['Not counted, kernels outside torch: '
                  + ', '.join(f'{op} ({calls} call{"s" * (calls > 1)})' for op, calls in result.kernels.items())]
    if result.uncounted:
        elements = sum(amount for _, amount in result.uncounted.values())
        listed = ', '.join(f'{op} {human(amount)}' for op, (_, amount) in list(result.uncounted.items())[:10])
        more = len(result.uncounted) - 10
        lines += [f'Not counted, torch operators without a formula (elements produced): {listed}'
                  + (f', and {more} more' if more > 0 else ''),
                  f'  together {human(elements)} elements, {elements / max(result.total, 1):.2%} of the FLOPs at one '
                  'operation per element']
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the count.

    Returns:
        0; 1 if the model does not run; 2 if the config cannot be read.
    """
    parser = argparse.ArgumentParser('get_flops', description=__doc__)
    add_config_arguments(parser)
    add_shape(parser)
    parser.add_argument('--depth', type=int, default=1, help='list modules whose path has at most this many parts')
    parser.add_argument('--json', action='store_true', help='write the numbers as JSON')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _print(args))


def measure(cfg: Config, shape: tuple[int, int]) -> Flops:
    """Build the model of a config and count one image.

    Raises:
        UserError: For models of point clouds, whose cost depends on the points.
    """
    model = build_model(cfg)
    if family(model) == 'det3d':
        raise runtime.UserError('operations of point cloud models depend on the points; get_flops takes image models')
    return count(model, fake_batch(cfg, model, shape))


def _print(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        shape = parse_shape(args, cfg)
        result = measure(cfg, shape)
    if args.json:
        print(json.dumps({'shape': shape, **vars(result)}, indent=2))
    else:
        print(render(result, args.config, shape, args.depth))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
