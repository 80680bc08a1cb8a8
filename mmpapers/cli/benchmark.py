"""``tools/analysis_tools/benchmark.py``: time and memory of data loading, inference and training steps."""

import argparse
import contextlib
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from mmpapers import compat
from mmpapers.dry_run import fake_batch

from . import console, runtime
from .check import add_config_arguments
from .inspect_model import add_shape, build_model, parse_shape

TASKS = ('data', 'inference', 'train')


@dataclass
class Timing:
    """Times of one task.

    Args:
        task: What was measured.
        median: Median seconds of one call.
        p90: 90th percentile, seconds.
        images: Images a call handles.
        memory: Peak memory in bytes: CUDA's allocator, or growth of the process on the CPU; None if unknown.
        parts: Median seconds of the parts of a call, where they are known.
    """

    task: str
    median: float
    p90: float
    images: int
    memory: int | None = None
    parts: dict[str, float] | None = None

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.images / self.median


def measure(task: str, call: Callable[[], Any], images: int, repeat: int = 20, warmup: int = 3,
            device: str = 'cpu') -> Timing:
    """Time a call.

    Args:
        task: Name of the result.
        call: What is timed; called ``warmup + repeat`` times.
        images: Images that one call handles.
        repeat: Timed calls.
        warmup: Calls before those.
        device: Device type whose queue is waited for.

    Returns:
        Median and 90th percentile of the timed calls, and the peak memory of all.
    """
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    start = begin_memory(device)
    times = []
    for i in range(warmup + repeat):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        if i >= warmup:
            times.append(time.perf_counter() - begin)
    return Timing(task, statistics.median(times), _p90(times), images, peak_memory(device, start))


def _p90(times: list[float]) -> float:
    """90th percentile by the nearest rank."""
    return sorted(times)[max(0, -(-9 * len(times) // 10) - 1)]


def begin_memory(device: str) -> int:
    """Start to watch the peak; return the current use in bytes."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return 0
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')  # resets VmHWM
    return _status('VmRSS') or 0


def peak_memory(device: str, start: int) -> int | None:
    """Peak since :func:`begin_memory`, bytes."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    peak = _status('VmHWM')
    if peak is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return max(peak - start, 0)


def growth(call: Callable[[], Any], device: str) -> int | None:
    """How much memory one call adds at its peak, bytes."""
    start = begin_memory(device)
    call()
    return peak_memory(device, start)


def growth_apart(module: str, words: Sequence[str]) -> int:
    """The same, printed by a module's command line in a process of its own."""
    out = subprocess.run([sys.executable, '-m', module, *words], check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def _status(name: str) -> int | None:
    """A memory figure of this process in bytes, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(f'{name}:'):
                return int(line.split()[1]) * 1024
    return None


def time_data(cfg: Config, repeat: int, warmup: int) -> Timing:
    """Time the training pipeline, one sample a call, and each of its steps.

    Raises:
        UserError: If the config has no training data or the set is empty.
    """
    if not cfg.get('train_dataloader'):
        raise runtime.UserError('the config has no `train_dataloader`')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
    if not len(dataset):
        raise runtime.UserError('the training set is empty; `mmpapers check` says why', code=1)
    spent: dict[str, list[float]] = {}
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    for i, step in enumerate(steps):
        steps[i] = _clocked(f'{i} {type(step).__name__}', step, spent)
    numbers = iter(range(10 ** 9))
    timing = measure('data', lambda: dataset[next(numbers) % len(dataset)], 1, repeat, warmup)
    timing.parts = {name: statistics.median(times[-repeat:]) for name, times in spent.items()}
    return timing


def _clocked(name: str, step: Callable, spent: dict[str, list[float]]) -> Callable:
    """Wrap a transform so that it notes its time."""
    def call(results: dict) -> dict | None:
        begin = time.perf_counter()
        out = step(results)
        spent.setdefault(name, []).append(time.perf_counter() - begin)
        return out
    return call


def time_model(cfg: Config, task: str, args: argparse.Namespace) -> Timing:
    """Time ``test_step`` or ``train_step`` of a config's model on random images."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.runner import load_checkpoint
    device = torch.device(args.device)
    model: nn.Module = revert_sync_batchnorm(build_model(cfg)).to(device)
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint, map_location=device)
    batch = fake_batch(cfg, model, parse_shape(args, cfg), args.batch_size)
    if task == 'inference':
        call = torch.no_grad()(lambda: model.test_step(copy.deepcopy(batch)))
    else:
        optim = cfg.get('optim_wrapper') or dict(optimizer=dict(type='SGD', lr=1e-6))
        wrapper = build_optim_wrapper(model.train(), copy.deepcopy(optim))
        call = lambda: model.train_step(copy.deepcopy(batch), wrapper)  # noqa: E731
    return measure(task, call, args.batch_size, args.repeat, args.warmup, device.type)


def render(timings: Sequence[Timing]) -> str:
    """Write timings as a table, with the parts of the data pipeline below it."""
    lines = [f'{"":10}{"median":>11}{"p90":>11}{"images/s":>11}{"peak memory":>14}']
    for t in timings:
        memory = '-' if t.memory is None else f'{t.memory / 2 ** 20:,.0f} MiB'
        lines.append(f'{t.task:10}{_time(t.median):>11}{_time(t.p90):>11}{t.throughput:>11.4g}{memory:>14}')
    for t in timings:
        for name, seconds in (t.parts or {}).items():
            lines.append(f'  {name:40}{_time(seconds):>11}  {seconds / t.median:6.1%}')
    return '\n'.join(lines)


def _time(seconds: float) -> str:
    return f'{seconds * 1e3:.2f} ms' if seconds < 1 else f'{seconds:.2f} s'


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Returns:
        0; 1 if something does not run; 2 if config or arguments are wrong.
    """
    parser = argparse.ArgumentParser('benchmark', description=__doc__, epilog='Without --checkpoint weights are '
                                     'random, so that post-processing (NMS of many boxes) may take longer than later.')
    add_config_arguments(parser)
    add_shape(parser)
    parser.add_argument('--task', nargs='+', choices=TASKS, default=['inference'], help='what to measure')
    parser.add_argument('--checkpoint', help='weights; random ones by default')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--repeat', type=int, default=20, help='timed calls')
    parser.add_argument('--warmup', type=int, default=3, help='calls before those')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', action='store_true', help='write the numbers as JSON')
    args = parser.parse_args(argv)
    if min(args.batch_size, args.repeat) < 1 or args.warmup < 0:
        parser.error('--batch-size and --repeat must be at least 1, --warmup at least 0')
    return runtime.run(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    if args.threads:
        torch.set_num_threads(args.threads)
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        shape = parse_shape(args, cfg)
        timings = [time_data(cfg, args.repeat, args.warmup) if task == 'data' else time_model(cfg, task, args)
                   for task in args.task]
    if args.json:
        print(json.dumps(dict(config=args.config, shape=shape, batch_size=args.batch_size, device=args.device,
                              threads=torch.get_num_threads(), results=[asdict(t) for t in timings]), indent=2))
        return 0
    memory = "CUDA's allocator" if torch.device(args.device).type == 'cuda' else 'growth of the process'
    print(f'{args.config}: batch {args.batch_size} of {shape[0]} x {shape[1]} (H x W), {args.device}, '
          f'{torch.get_num_threads()} threads, {args.repeat} calls after {args.warmup} of warm-up; '
          f'memory is {memory}\n')
    print(render(timings))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
