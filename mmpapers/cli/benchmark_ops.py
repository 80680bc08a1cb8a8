"""Time the ops behind ``mmcv._ext`` and compare two environments: ours, and one with a compiled mmcv."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

Row = dict[str, object]
COLUMNS = ('forward', 'backward')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0, or 2 if there is nothing to time or to compare with.
    """
    parser = argparse.ArgumentParser(
        prog='benchmark_ops', description='Time the ops of mmcv through mmpapers.ops; with --against, beside compiled '
        'kernels. Prints a markdown table of medians in milliseconds.')
    parser.add_argument('--against', metavar='PYTHON|JSON', help='Python of an environment with a compiled mmcv, or '
                        'the --json of a run there')
    parser.add_argument('--only', metavar='OP', nargs='+', help='ops to time, e.g. nms roi_align; default all')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument('--seconds', type=float, default=1.0, help='time for each figure (default 1)')
    parser.add_argument('--json', metavar='FILE', help='write the figures here')
    parser.add_argument('--as-installed', action='store_true',
                        help='time what mmcv itself brings, without mmpapers.ops; what --against runs')
    args = parser.parse_args(argv)
    if not args.as_installed:
        from mmpapers import compat
        compat.setup()
    torch.set_num_threads(args.threads)
    rows = _time_all(args.only, args.seconds, args.threads, args.as_installed)
    if not rows:
        print(f'no case of {" ".join(args.only)}; there are: {" ".join(sorted({case.op for case in _cases()}))}')
        return 2
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    others = _other(args) if args.against else []
    if others is None:
        return 2
    print(table(rows, others))
    return 0


def table(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """Format rows, beside those of the other environment with the same op and size, as markdown.

    Args:
        rows: Each with ``op``, ``size``, ``forward`` and ``backward`` in ms (None where it does not apply).
        others: Rows of a compiled mmcv, or none.
    """
    found = {(row['op'], row['size']): row for row in others}
    head = ['op', 'size']
    for column in COLUMNS:
        head += [f'{column}: compiled', 'ours', 'ratio'] if others else [column]
    lines = [head, ['---'] * 2 + ['---:'] * (len(head) - 2)]
    for row in rows:
        cells = [row['op'], row['size']]
        for column in COLUMNS:
            ours, theirs = row[column], found.get((row['op'], row['size']), {}).get(column)
            if others:
                cells += ['none' if theirs is None and ours is not None else _show(theirs), _show(ours),
                          _show(ours / theirs, 2) if ours and theirs else '']
            else:
                cells.append(_show(ours))
        lines.append(cells)
    return '\n'.join('| ' + ' | '.join(map(str, cells)) + ' |' for cells in lines)


def _show(value: float | None, digits: int = 1) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def _cases() -> list:
    from . import (
        benchmark_ops_boxes,
        benchmark_ops_boxes3d,
        benchmark_ops_conv,
        benchmark_ops_points,
        benchmark_ops_sparse,
    )
    modules = (benchmark_ops_boxes, benchmark_ops_conv, benchmark_ops_boxes3d, benchmark_ops_points,
               benchmark_ops_sparse)
    return [case for module in modules for case in module.CASES]


def _other(args: argparse.Namespace) -> list[Row] | None:
    """Read the other environment's figures, or run it; None (and a sentence) if that fails."""
    if args.against.endswith('.json'):
        return json.loads(Path(args.against).read_text())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, 'rows.json')
        command = [args.against, '-m', 'mmpapers.cli.benchmark_ops', '--as-installed', '--json', str(out),
                   '--threads', str(args.threads), '--seconds', str(args.seconds)]
        command += ['--only', *args.only] if args.only else []
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')])
        try:
            subprocess.run(command, env=os.environ | {'PYTHONPATH': path}, capture_output=True, text=True, check=True)
            return json.loads(out.read_text())
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, 'stderr', '') or str(error)).strip().splitlines()[-1]
            print(f'{args.against} could not run the benchmark; it needs torch, mmengine and a compiled mmcv '
                  f'(`make compiled`): {reason}', file=sys.stderr)
            return None


def _time_all(only: Sequence[str] | None, seconds: float, threads: int, gaps: bool) -> list[Row]:
    """Time every case; None for an op that cannot run here, if such ``gaps`` are allowed."""
    rows = []
    for case in _cases():
        if only and case.op not in only:
            continue
        torch.manual_seed(0)
        function, inputs = case.make()
        leaves = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
        row: Row = {'op': case.op, 'size': case.size, 'forward': None, 'backward': None}
        rows.append(row)
        try:
            out = function(*inputs)
        except (RuntimeError, TypeError, AssertionError):  # an op of mmcv without a kernel, or a wrapper, for the CPU
            if gaps:
                continue
            raise
        with torch.no_grad():
            row['forward'] = _median(lambda f=function, x=inputs: f(*x), seconds, threads)
        if leaves:
            grad = torch.randn_like(out)
            row['backward'] = _median(
                lambda o=out, x=leaves, g=grad: torch.autograd.grad(o, x, g, retain_graph=True), seconds, threads)
    return rows


def _median(call: Callable[[], object], seconds: float, threads: int) -> float:
    """Median time of a call in ms; with one thread its CPU time, which other processes do not lengthen."""
    clock = time.process_time if threads == 1 else time.perf_counter
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return median(times)


if __name__ == '__main__':
    raise SystemExit(main())
