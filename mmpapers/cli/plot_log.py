"""Draw the curves of one run, or compare several.

    mmpapers plot_log work_dirs/ttfnet_r18_toytown
    mmpapers plot_log work_dirs/a work_dirs/b --keys 'val/coco/bbox_mAP$' '^loss$' --out compare.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpapers.cli import runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Draw logs that ``tools/train.py`` wrote.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0, or 2 if there is no log or no such series.
    """
    parser = argparse.ArgumentParser(prog='mmpapers plot_log', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN',
                        help='work dir (with what was resumed), log folder, or log.jsonl')
    parser.add_argument('--names', nargs='+', help='names in the legend (default: the folders)')
    parser.add_argument('--keys', nargs='+', default=[], metavar='REGEX',
                        help="series to draw, one panel each, e.g. '^loss$' 'val/.*mAP'; default: losses, LR, metrics")
    parser.add_argument('--smooth', type=float, default=0., help='weight of the past in an exponential mean (0 to 1)')
    parser.add_argument('--out', type=Path, help='picture to write (default: curves.png beside the log, or '
                                                 'compare.png here for several runs)')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _plot(args))


def _plot(args: argparse.Namespace) -> int:
    """Read and draw."""
    from mmpapers.hooks.curves import draw, find_logs, panels, read_run
    names = args.names or _names(args.runs)
    if len(names) != len(args.runs):
        raise runtime.UserError(f'--names has {len(names)} entries for {len(args.runs)} runs')
    if not 0 <= args.smooth < 1:
        raise runtime.UserError(f'--smooth {args.smooth} is outside 0 to 1 (1 excluded)')
    try:
        logs = [find_logs(path) for path in args.runs]
    except FileNotFoundError as error:
        raise runtime.UserError(str(error)) from error
    runs = [read_run(files, name) for files, name in zip(logs, names)]
    out = args.out or (logs[0][-1].with_name('curves.png') if len(runs) == 1 else Path('compare.png'))
    drawn = draw(runs, out, args.keys, args.smooth)
    if not drawn:
        there = [name for _, group in panels(runs) for name in group]
        raise runtime.UserError(f'no series matches {" ".join(args.keys) or "(the logs are empty)"}; there are '
                                f'{", ".join(there) or "none"}')
    print(f'{out}: {", ".join(drawn)}')
    return 0


def _names(paths: Sequence[Path]) -> list[str]:
    """Shortest names that tell folders apart."""
    parts = [(path.parent if path.is_file() else path).absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{names[i]} #{i + 1}' for i in range(len(names))]
