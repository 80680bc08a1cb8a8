"""Time and memory of a training step of several configs, relative to the first.

A config may carry settings behind ``@``, separated by commas: ``h.py@model.attention=mask``. ``@calls`` lets a DETR
with query sets call its decoder once for each set, the plain alternative to one call in which sets do not meet.

Times are CPU time of this process on the CPU, which other processes hardly disturb, and wall-clock time on CUDA. The
configs take turns. Memory is the growth of a fresh process over one step.
"""

import argparse
import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

from mmpapers import compat
from mmpapers.config_tree import walk
from mmpapers.dry_run import fake_batch

from . import benchmark, console, runtime
from .benchmark_distill import interleave
from .inspect_model import add_shape, build_model, parse_shape

_CALLS = 'calls'


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 1 if a step fails; 2 if a config cannot be read.
    """
    parser = argparse.ArgumentParser('benchmark_steps', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG[@SETTING,...]')
    add_shape(parser)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--repeat', type=int, default=10, help='timed rounds')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads on the CPU (default 1)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--memory', action='store_true', help=argparse.SUPPRESS)  # of the first config, for itself
    args = parser.parse_args(argv)
    return runtime.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    torch.set_num_threads(args.threads)
    with console.quiet_stack():
        configs = {text: _read(text) for text in args.configs}
        shape = parse_shape(args, next(iter(configs.values()))[0])
        steps = {text: step(cfg, calls, shape, args) for text, (cfg, calls) in configs.items()}
        if args.memory:
            print(benchmark.growth(steps[args.configs[0]], args.device))
            return 0
        seconds = interleave(steps, args.repeat, args.device)
    memory = {text: _memory(args, text, shape) for text in args.configs}
    print(f'batch {args.batch_size} of {shape[0]} x {shape[1]} (H x W), {args.device}, {args.threads} thread(s), '
          f'medians of {args.repeat} rounds\n')
    print(render({text: statistics.median(values) for text, values in seconds.items()}, memory))
    return 0


def _read(text: str) -> tuple[Config, bool]:
    """A config with its settings, and whether the decoder is called once for each query set."""
    path, _, settings = text.partition('@')
    words = [word for word in settings.split(',') if word]
    options = {}
    for word in words:
        if word == _CALLS:
            continue
        key, equals, value = word.partition('=')
        if not equals:
            raise runtime.UserError(f'{text}: {word!r} is no setting; write KEY=VALUE, or {_CALLS}')
        options[key] = DictAction._parse_iterable(value)
    return runtime.read_config(path, options), _CALLS in words


def step(cfg: Config, calls: bool, shape: tuple[int, int], args: argparse.Namespace) -> Callable[[], Any]:
    """A training step on made data: forward, backward, update."""
    from mmengine.optim import build_optim_wrapper

    from mmpapers.distill.overlay import expand
    expand(cfg)
    for _, node in walk(cfg.model):
        init = node.get('init_cfg') if isinstance(node, dict) else None
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node.pop('init_cfg')  # a file that may have to be downloaded, and no matter for the cost
    model = build_model(cfg)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')  # mmengine tells of every parameter how it began
    model.init_weights()  # mmdet leaves some parameters of DETRs to whatever memory holds
    logger.setLevel(level)
    batch = fake_batch(cfg, model, shape, args.batch_size)
    model.to(args.device).train()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1e-6)))

    def run() -> None:
        with _one_call_a_set() if calls else contextlib.nullcontext():
            model.train_step(copy.deepcopy(batch), wrapper)
    return run


@contextlib.contextmanager
def _one_call_a_set() -> Iterator[None]:
    """Let detectors with query sets call their decoder set by set while the block runs."""
    from mmpapers.layers.query_sets import QUERY_INPUTS, QuerySets, QuerySetsMixin

    def forward_decoder(self: Any, *args: Any, query_sets: QuerySets | None = None, **inputs: Any) -> dict[str, Any]:
        base = super(QuerySetsMixin, self).forward_decoder
        if query_sets is None:
            return base(*args, **inputs)
        parts = []
        for each, place in zip(query_sets.sets, query_sets.slices().values()):
            own = {name: value[:, place] if name in QUERY_INPUTS else value
                   for name, value in inputs.items()}
            parts.append(base(*args, **(dict(own, dn_mask=each.mask) if 'dn_mask' in own else own)))
        references = [part['references'] for part in parts]
        joined = [torch.cat(layers, -2) for layers in zip(*references)] if isinstance(references[0], list) \
            else torch.cat(references, -2)
        return dict(hidden_states=torch.cat([part['hidden_states'] for part in parts], 2), references=joined)

    with mock.patch.object(QuerySetsMixin, 'forward_decoder', forward_decoder):
        yield


def _memory(args: argparse.Namespace, text: str, shape: tuple[int, int]) -> int:
    """Peak memory of a step in a fresh process, bytes."""
    return benchmark.growth_apart('mmpapers.cli.benchmark_steps', [
        text, '--memory', '--device', args.device, '--batch-size', str(args.batch_size), '--threads', str(args.threads),
        '--shape', *map(str, shape)])


def render(seconds: dict[str, float], memory: dict[str, int]) -> str:
    """A markdown table; ratios are to the first row."""
    first = next(iter(seconds))
    lines = ['| | ms | ratio | peak memory, MiB | ratio |', '| --- | ---: | ---: | ---: | ---: |']
    lines += [f'| {_short(name)} | {value * 1e3:.0f} | {value / seconds[first]:.2f} | '
              f'{memory[name] / 2**20:.0f} | {memory[name] / max(memory[first], 1):.2f} |'
              for name, value in seconds.items()]
    return '\n'.join(lines)


def _short(text: str) -> str:
    """A config with its settings, without folders."""
    path, at, settings = text.partition('@')
    return Path(path).name + at + settings


if __name__ == '__main__':
    raise SystemExit(main())
