"""Command line of the rooms: ``python -m mmpapers.datasets.rooms OUT --train 600 --val 100``."""

import argparse
from collections.abc import Sequence

from ..toytown.command import chosen, common_options, execute


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m mmpapers.datasets.rooms',
        description='Generate furnished rooms as ScanNet scenes (OUT/scannet) and SUN RGB-D views (OUT/sunrgbd) for '
                    'mmdet3d. The same seed gives the same boxes on every machine. An interrupted run resumes when '
                    'repeated.')
    parser.add_argument('--train', type=int, default=600, metavar='N', help='training rooms (default %(default)s)')
    common_options(parser, 'data/rooms', '320x240')
    parser.add_argument('--points', type=int, metavar='N', help='points of each cloud (default 10000)')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate a data set; returns the exit code."""
    args = parse(argv)
    from .plan import RoomsPlan
    from .preview import write_preview
    return execute(args, 'rooms', lambda: RoomsPlan(args.train, args.val, args.test, args.seed, **chosen(
        size=args.size, points=args.points)), write_preview)


if __name__ == '__main__':
    raise SystemExit(main())
