"""Converters from the public repositories' layout to the layout that the dataset base configs read."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


class ConversionError(RuntimeError):
    """The source is not what the converter expects; the message names the file and the fix."""


def run(convert: Callable[[Path, Path], dict[str, str]], description: str, source_help: str, default_out: str,
        argv: Sequence[str] | None = None) -> int:
    """Run a converter as a command line; returns the exit code.

    Args:
        convert: Takes source and output folder, returns a line of text per split.
        description: Text of ``--help``.
        source_help: What SOURCE must be.
        default_out: Default output folder.
        argv: Arguments, ``sys.argv`` if not given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('source', type=Path, metavar='SOURCE', help=source_help)
    parser.add_argument('--out', type=Path, default=Path(default_out), help='folder to write (default %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='write into a folder that is not empty')
    args = parser.parse_args(argv)
    try:
        if args.out.exists() and not args.out.is_dir():
            raise ConversionError(f'{args.out} is a file; name a folder with --out')
        if args.out.is_dir() and any(args.out.iterdir()) and not args.overwrite:
            raise ConversionError(f'{args.out} is not empty; nothing was written. Add --overwrite, or name another '
                                  'folder with --out')
        lines = convert(args.source, args.out)
    except (ConversionError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for split, line in lines.items():
        print(f'{split:>6}: {line}')
    print(f'written to {args.out}')
    return 0


def find_root(source: Path, name: str, marker: str) -> Path:
    """The folder that holds ``marker``: the source itself or its sub-folder ``name``.

    Raises:
        ConversionError: If neither holds it.
    """
    for root in (source, source / name):
        if (root / marker).exists():
            return root
    raise ConversionError(f'{source} holds neither {marker} nor {name}/{marker}; name the folder of the checked-out '
                          'repository')
