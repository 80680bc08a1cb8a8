"""What the command lines of generated data sets share: options, progress, errors as sentences, exit codes."""

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from . import ToytownError


def common_options(parser: argparse.ArgumentParser, example: str, size: str) -> None:
    """Add OUT, --val, --test, --seed, --size, --workers, --overwrite and --preview.

    Args:
        parser: The parser.
        example: A folder to name in the help.
        size: Default image size, in words.
    """
    parser.add_argument('out', type=Path, metavar='OUT', help=f'folder to fill, e.g. {example}')
    parser.add_argument('--val', type=int, default=100, metavar='N', help='validation scenes (default %(default)s)')
    parser.add_argument('--test', type=int, default=0, metavar='N', help='test scenes (default %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the data set (default %(default)s)')
    parser.add_argument('--size', type=image_size, metavar='WxH', help=f'image size in pixels (default {size})')
    parser.add_argument('--workers', type=_workers, metavar='N', help='processes (default: all cores)')
    parser.add_argument('--overwrite', action='store_true',
                        help=f'delete a {parser.prog.rpartition(".")[2].title()} set that is there and make it anew; '
                             'other folders are never touched')
    parser.add_argument('--preview', type=Path, metavar='FILE',
                        help='also draw scenes with all their labels (.png, .jpg)')


def image_size(text: str) -> tuple[int, int]:
    """Read ``WxH``."""
    try:
        width, height = map(int, text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form WxH, e.g. 320x192') from None
    return width, height


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a number that is at least 1')
    return int(text)


def chosen(**values: object) -> dict[str, object]:
    """The options that were given."""
    return {key: value for key, value in values.items() if value is not None}


def execute(args: argparse.Namespace, program: str, make_plan: Callable, write_preview: Callable) -> int:
    """Generate a data set and draw its preview; returns the exit code.

    Args:
        args: What :func:`common_options` reads.
        program: Begins messages.
        make_plan: Makes the plan.
        write_preview: Draws a folder's contents into a file.
    """
    from .generate import generate

    def report(text: str) -> None:
        print(text, flush=True)

    start = time.monotonic()
    try:
        manifest = generate(args.out, make_plan(), args.workers, args.overwrite, report)
        if args.preview:
            write_preview(args.out, args.preview)
            report(f'preview: {args.preview}')
    except ToytownError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, BrokenProcessPool) as error:
        print(f'{program}: stopped: {error}. What is written so far is kept; the same command resumes', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; the same command resumes', file=sys.stderr)
        return 130
    for split, count in manifest['counts'].items():
        report(f'{split:>6}: ' + ', '.join(f'{number} {what}' for what, number in count.items()))
    report(f'done in {time.monotonic() - start:.0f} s: {args.out}')
    return 0
