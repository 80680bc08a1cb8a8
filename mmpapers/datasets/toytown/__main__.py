"""Command line of Toytown: ``python -m mmpapers.datasets.toytown OUT --train 400 --val 100``, or with ``--lidar``."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .command import chosen, common_options, execute

if TYPE_CHECKING:
    from .generate import Plan

_LIDAR = ('sweeps', 'conceptual', 'no_images', 'beams', 'elevation', 'azimuth_step', 'range_noise', 'drop_out',
          'lidar_height', 'reach')


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m mmpapers.datasets.toytown',
        description='Generate Toytown: street scenes with boxes, masks, semantic labels, lanes and depth; or, with '
                    '--lidar, the same scenes as a KITTI folder with point clouds. The same seed gives the same labels '
                    'on every machine. An interrupted run resumes when repeated.')
    parser.add_argument('--train', type=int, metavar='N', help='training scenes (default 400; with --lidar 300)')
    common_options(parser, 'data/toytown', '320x192; with --lidar 640x384')
    lidar = parser.add_argument_group('LiDAR', 'a KITTI folder; the options below need --lidar')
    lidar.add_argument('--lidar', action='store_true', help='write KITTI\'s layout with point clouds')
    lidar.add_argument('--sweeps', type=int, metavar='K', help='earlier scans per frame, 0.1 s apart (default 0)')
    lidar.add_argument('--conceptual', action='store_true',
                       help='also write clouds in which each object is scanned alone with ten times the rays')
    lidar.add_argument('--no-images', action='store_true', help='do not draw image_2')
    lidar.add_argument('--beams', type=int, metavar='N', help='beams (default 32)')
    lidar.add_argument('--elevation', type=float, nargs=2, metavar=('LOW', 'HIGH'),
                       help='lowest and highest beam in degrees (default -24.9 3)')
    lidar.add_argument('--azimuth-step', type=float, metavar='DEG', help='degrees between rays (default 0.25)')
    lidar.add_argument('--range-noise', type=float, metavar='M', help='standard deviation in metres (default 0.02)')
    lidar.add_argument('--drop-out', type=float, metavar='P',
                       help='share of returns lost at random, besides the weak ones (default 0.02)')
    lidar.add_argument('--lidar-height', type=float, metavar='M', help='metres above the ground (default 1.73)')
    lidar.add_argument('--reach', type=float, metavar='M', help='longest range in metres (default 80)')
    args = parser.parse_args(argv)
    given = [name for name in _LIDAR if getattr(args, name) not in (None, False)]
    if given and not args.lidar:
        parser.error(f'--{given[0].replace("_", "-")} needs --lidar')
    return args


def plan_of(args: argparse.Namespace) -> 'Plan':
    """The plan that the command line asks for."""
    from .generate import Plan
    from .kitti_plan import KittiPlan
    from .lidar import Lidar

    common = chosen(train=args.train, val=args.val, test=args.test, seed=args.seed, size=args.size)
    if not args.lidar:
        return Plan(**common)
    low, high = args.elevation or (None, None)
    sensor = Lidar(**chosen(beams=args.beams, low=low, high=high, step=args.azimuth_step, noise=args.range_noise,
                            dropout=args.drop_out, height=args.lidar_height, reach=args.reach))
    return KittiPlan(**common, **chosen(sweeps=args.sweeps), sensor=sensor, images=not args.no_images,
                     conceptual=args.conceptual)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate a data set; returns the exit code."""
    args = parse(argv)
    from .kitti_preview import write_kitti_preview
    from .preview import write_preview
    return execute(args, 'toytown', lambda: plan_of(args), write_kitti_preview if args.lidar else write_preview)


if __name__ == '__main__':
    raise SystemExit(main())
