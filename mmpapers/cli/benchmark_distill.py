"""What distillation costs: a step with it, beside a plain step and the teacher's forward pass up to its last tap.

Times are CPU time of this process on the CPU, which other processes hardly disturb, and wall-clock time on CUDA. The
four things that are timed take turns. Memory is the growth of a fresh process over one step.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config

from mmpapers import compat
from mmpapers.dry_run import fake_batch

from . import benchmark, console, runtime
from .check import add_config_arguments
from .inspect_model import add_shape, build_model, parse_shape

PLAIN, TEACHER, WHOLE, DISTILLED = 'plain step', 'teacher to its last tap', 'teacher whole', 'distilled step'
TASKS = (PLAIN, TEACHER, WHOLE, DISTILLED)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 2 if the config is no distillation or cannot be read.
    """
    parser = argparse.ArgumentParser('benchmark_distill', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    add_shape(parser)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--repeat', type=int, default=10, help='timed rounds')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads on the CPU (default 1)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--memory-of', choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    return runtime.run(lambda: _run(args, list(sys.argv[1:] if argv is None else argv)))


def _run(args: argparse.Namespace, words: list[str]) -> int:
    """Do the work of :func:`main`."""
    from mmpapers.distill.overlay import expand, plain
    compat.setup()
    torch.set_num_threads(args.threads)
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        expand(cfg)
        if 'student' not in cfg.model:
            raise runtime.UserError(f'{args.config} has no `distill`, so there is no cost of it to measure')
        shape = parse_shape(args, cfg)
        alone = copy.deepcopy(cfg)
        plain(alone)
        calls = tasks(cfg, alone, shape, args)
        if args.memory_of:
            print(benchmark.growth(calls[args.memory_of], args.device))
            return 0
        seconds = interleave(calls, args.repeat, args.device)
    memory = {task: _memory(words, task) for task in TASKS}
    print(f'{args.config}: batch {args.batch_size} of {shape[0]} x {shape[1]} (H x W), {args.device}, '
          f'{args.threads} thread(s), medians of {args.repeat} rounds\n')
    print(render(seconds, memory))
    return 0


def tasks(cfg: Config, alone: Config, shape: tuple[int, int], args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    from mmengine.optim import build_optim_wrapper
    optimizer = dict(optimizer=dict(type='SGD', lr=1e-6))
    models, calls = {PLAIN: build_model(alone), DISTILLED: build_model(cfg)}, {}
    batch = fake_batch(alone, models[PLAIN], shape, args.batch_size)
    for task, model in models.items():
        model.to(args.device).train()
        wrapper = build_optim_wrapper(model, copy.deepcopy(optimizer))
        calls[task] = lambda model=model, wrapper=wrapper: model.train_step(copy.deepcopy(batch), wrapper)
    student = models[DISTILLED]
    if student.teacher is None:
        raise runtime.UserError('this method has no teacher')
    data = student.data_preprocessor(copy.deepcopy(batch), True)

    def whole() -> None:
        with torch.no_grad():
            student.teacher.model(**copy.deepcopy(data), mode='loss')

    calls[TEACHER] = lambda: student.teacher(data['inputs'], data['data_samples'], student.data_preprocessor)
    calls[WHOLE] = whole
    return {task: calls[task] for task in TASKS}


def interleave(calls: dict[str, Callable[[], Any]], repeat: int, device: str) -> dict[str, list[float]]:
    """Seconds of every call, taken in turns after a round of warm-up."""
    clock = time.perf_counter if device.startswith('cuda') else time.process_time
    seconds: dict[str, list[float]] = {task: [] for task in calls}
    for i in range(repeat + 1):
        for task, call in calls.items():
            begin = clock()
            call()
            if device.startswith('cuda'):
                torch.cuda.synchronize()
            if i:
                seconds[task].append(clock() - begin)
    return seconds


def _memory(words: Sequence[str], task: str) -> int:
    """Peak memory of one task in a fresh process, bytes."""
    return benchmark.growth_apart('mmpapers.cli.benchmark_distill', [*words, '--memory-of', task])


def render(seconds: dict[str, list[float]], memory: dict[str, int]) -> str:
    """A markdown table; ratios are to a plain step plus the teacher up to its last tap."""
    medians = {task: statistics.median(values) for task, values in seconds.items()}
    base, room = medians[PLAIN] + medians[TEACHER], memory[PLAIN] + memory[TEACHER]
    rows = [(task, medians[task], memory[task]) for task in TASKS]
    rows.append(('plain step + teacher to its last tap', base, room))
    rows.append(('plain step + teacher whole', medians[PLAIN] + medians[WHOLE], memory[PLAIN] + memory[WHOLE]))
    lines = ['| | ms | ratio | peak memory, MiB | ratio |', '| --- | ---: | ---: | ---: | ---: |']
    lines += [f'| {name} | {value * 1e3:.0f} | {value / base:.2f} | {size / 2**20:.0f} | {size / room:.2f} |'
              for name, value, size in rows]
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
