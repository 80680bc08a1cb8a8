"""Command line of Toytown: ``python -m mmpapers.datasets.toytown OUT --train 400 --val 100``."""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m mmpapers.datasets.toytown',
        description='Generate Toytown: street scenes with boxes, masks, semantic labels, lanes and depth. The same '
                    'seed gives the same labels on every machine. An interrupted run resumes when repeated.')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to fill, e.g. data/toytown')
    parser.add_argument('--train', type=int, default=400, metavar='N', help='training scenes (default %(default)s)')
    parser.add_argument('--val', type=int, default=100, metavar='N', help='validation scenes (default %(default)s)')
    parser.add_argument('--test', type=int, default=0, metavar='N', help='test scenes (default %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the data set (default %(default)s)')
    parser.add_argument('--size', type=_size, default=(320, 192), metavar='WxH',
                        help='image size in pixels (default 320x192)')
    parser.add_argument('--workers', type=int, default=None, metavar='N', help='processes (default: all cores)')
    parser.add_argument('--overwrite', action='store_true',
                        help='delete a Toytown set that is there and make it anew; other folders are never touched')
    parser.add_argument('--preview', type=Path, metavar='FILE',
                        help='also draw scenes with all their labels (.png, .jpg)')
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error('--workers must be at least 1')
    return args


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form WxH, e.g. 320x192') from None
    return width, height


def main(argv: Sequence[str] | None = None) -> int:
    """Generate a data set; returns the exit code."""
    args = parse(argv)
    from .generate import Plan, ToytownError, generate
    from .preview import write_preview

    def report(text: str) -> None:
        print(text, flush=True)

    start = time.monotonic()
    try:
        plan = Plan(args.train, args.val, args.test, args.seed, args.size)
        manifest = generate(args.out, plan, args.workers, args.overwrite, report)
        if args.preview:
            write_preview(args.out, args.preview)
            report(f'preview: {args.preview}')
    except ToytownError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, BrokenProcessPool) as error:
        print(f'toytown: stopped: {error}. What is written so far is kept; the same command resumes', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; the same command resumes', file=sys.stderr)
        return 130
    for split, count in manifest['counts'].items():
        report(f'{split:>6}: {count["images"]} images, {count["objects"]} objects')
    report(f'done in {time.monotonic() - start:.0f} s: {args.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
