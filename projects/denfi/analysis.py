"""Where DENFI samples: the share of an object's points that its taps come near, and a picture from above.

    python -m mmpapers.projects.denfi.analysis CONFIG [CHECKPOINT ...] [--frames 20] [--picture FILE]

Prints, for each checkpoint (that of every epoch, say), over the foreground cells of validation frames, the mean share
of the object's LiDAR points within 0.3 m of the nine taps: of the regular 3x3 grid, of the predicted boundaries and of
the annotated ones. The picture shows one frame and the last checkpoint.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmpapers.projects.denfi.geometry import decode_angle, regular_positions, sampling_positions
from mmpapers.projects.denfi.proposal import BoundaryTargets, DenseBoundaryProposal
from mmpapers.visualization import bev

_MARGIN = 0.1  # metres around a box that still count as its own; the lowest of them is taken for ground
_REGULAR = '#c9d1d9'


class Cells(NamedTuple):
    """The foreground cells of one frame.

    Args:
        centres: (P, 2) x and y, metres.
        regular: (P, 9, 2) taps of a regular 3x3 kernel, metres.
        predicted: (P, 9, 2) taps on the predicted boundaries.
        annotated: (P, 9, 2) taps on the annotated boundaries, the centre of the box in the middle.
        points: (N, 2) LiDAR points on objects.
        inside: (P, N) bool, whether a point belongs to the object of a cell.
    """
    centres: Tensor
    regular: Tensor
    predicted: Tensor
    annotated: Tensor
    points: Tensor
    inside: Tensor


def point_fraction(taps: Tensor, points: Tensor, inside: Tensor, radius: float = 0.3) -> Tensor:
    """Share of an object's points that lie near the taps of a cell.

    Args:
        taps: (P, T, 2) positions, metres.
        points: (N, 2).
        inside: (P, N) bool, the points that count for a cell.
        radius: What is near, metres.

    Returns:
        (P,), NaN for a cell whose object has no point.
    """
    near = torch.stack([torch.cdist(tap, points) <= radius for tap in taps.transpose(0, 1)]).any(0)
    return (near & inside).sum(1) / inside.sum(1)


def object_points(points: Tensor, boxes: Tensor) -> Tensor:
    """Select the points on objects, without the ground below them.

    Args:
        points: (N, 3 or more) x, y, z, metres.
        boxes: (M, 7 or more) centre of the lower face, length, width, height, yaw.

    Returns:
        (N', 2) x and y.
    """
    shift = points[:, None, :3] - boxes[:, :3]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    along = cos * shift[..., 0] + sin * shift[..., 1]
    across = cos * shift[..., 1] - sin * shift[..., 0]
    inside = (along.abs() <= boxes[:, 3] / 2 + _MARGIN) & (across.abs() <= boxes[:, 4] / 2 + _MARGIN) & (
        shift[..., 2] >= _MARGIN) & (shift[..., 2] <= boxes[:, 5] + _MARGIN)
    return points[inside.any(1), :2]


def foreground_cells(proposal: DenseBoundaryProposal, raw: Tensor, target: BoundaryTargets, points: Tensor) -> Cells:
    """Collect the taps of the foreground cells of a frame.

    Args:
        proposal: The module.
        raw: (4 + 2n, H, W), its output for the frame.
        target: Its targets for the frame.
        points: (N, 2), see :func:`object_points`.
    """
    chosen = target.foreground
    x, y = proposal.grid.centres(raw)
    centres = torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], -1)[chosen]
    axis = decode_angle(target.bins, target.residuals, proposal.num_bins)
    placed = [sampling_positions(d, a)[0] for d, a in (proposal.decode(raw[None]),
                                                       (target.distances[None], axis[None]))]
    regular = regular_positions(proposal.grid, raw)[0].expand_as(placed[0])
    taps = [centres[:, None] + p.permute(3, 4, 0, 1, 2)[chosen].flatten(1, 2) for p in (regular, *placed)]

    size = (target.distances[::2] + target.distances[1::2])[:, chosen]  # left and right, top and bottom
    cos, sin = axis[chosen].cos()[:, None], axis[chosen].sin()[:, None]
    dx, dy = (points - taps[2][:, 4, None]).unbind(-1)  # tap 4 is the box's centre; (P, N)
    inside = ((cos * dx + sin * dy).abs() <= size[0, :, None] / 2 + _MARGIN) & (
        (cos * dy - sin * dx).abs() <= size[1, :, None] / 2 + _MARGIN)
    return Cells(centres, *taps, points, inside)


def frames(model: nn.Module, loader: Sequence | Iterator, count: int) -> Iterator[tuple[Cells, Tensor, Tensor]]:
    """Run a detector with a :class:`DENFINeck` on validation frames.

    Args:
        model: The detector, in evaluation mode.
        loader: Yields batches of labelled frames, as a validation data loader.
        count: At most so many frames.

    Yields:
        Foreground cells, the cloud (N, C) and the boxes (M, 7) of a frame.
    """
    proposal, seen = model.aux_neck.proposal, []
    handle = proposal.register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        for batch in loader:
            data = model.data_preprocessor(batch, False)
            seen.clear()
            with torch.no_grad():
                model.extract_feat(data['inputs'], *([[s.metainfo for s in data['data_samples']]] if hasattr(
                    model, 'pts_bbox_head') else []))
            for raw, cloud, sample in zip(seen[0], data['inputs']['points'], data['data_samples'], strict=True):
                labelled = sample.eval_ann_info
                boxes = labelled['gt_bboxes_3d'].to(raw.device)
                labels = torch.as_tensor(labelled['gt_labels_3d'], device=raw.device)
                boxes, labels = boxes[labels >= 0], labels[labels >= 0]
                target = proposal.targets(boxes.bev, labels)
                yield (foreground_cells(proposal, raw.float(), target, object_points(cloud, boxes.tensor)), cloud,
                       boxes.tensor)
                count -= 1
                if not count:
                    return
    finally:
        handle.remove()


def mean_fractions(cells: Sequence[Cells], radius: float = 0.3) -> tuple[float, float, float]:
    """Mean of :func:`point_fraction` over all foreground cells: regular, predicted, annotated taps; NaN without any."""
    rows = [torch.stack([point_fraction(taps, c.points, c.inside, radius)
                         for taps in (c.regular, c.predicted, c.annotated)]) for c in cells]
    return tuple(torch.cat(rows, 1).nanmean(1).tolist())


def draw(cells: Cells, cloud: Tensor, boxes: Tensor, title: str = '', zooms: int = 6) -> Figure:
    """Draw a frame from above, and the taps of one cell for each of the objects with the most points.

    Args:
        cells: Foreground cells.
        cloud: (N, 2 or more) all points.
        boxes: (M, 7 or more) annotated boxes.
        title: Text above.
        zooms: Objects drawn large, an even number.

    Returns:
        The figure; ``mmpapers.visualization.bev.save`` writes it.
    """
    figure = Figure((5 + 2.4 * zooms / 2, 5.6), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2 + zooms // 2)
    whole = figure.add_subplot(grid[:, :2])
    corners = _outlines(boxes)
    _scene(whole, cloud, corners, 0.15)
    whole.scatter(*_page(cells.predicted.reshape(-1, 2)), s=1, color=bev.PREDICTION, linewidths=0, zorder=3)
    low, high = corners.reshape(-1, 2).amin(0) - 3, corners.reshape(-1, 2).amax(0) + 3
    whole.set(xlim=(-high[1], -low[1]), ylim=(low[0], high[0]))
    whole.set_xlabel('metres to the right', fontsize=7)
    whole.set_ylabel('metres ahead', fontsize=7)
    whole.set_title('taps of all foreground cells', fontsize=9)
    distance = torch.cdist(cells.annotated[:, 4], boxes[:, :2])
    owner, offset = distance.argmin(1), (cells.centres - cells.annotated[:, 4]).norm(dim=1)
    order = sorted(set(owner.tolist()), key=lambda box: -int(cells.inside[owner == box][0].sum()))[:zooms]
    for i, box in enumerate(order):
        axes = figure.add_subplot(grid[i // (zooms // 2), 2 + i % (zooms // 2)])
        cell = int(torch.where(owner == box, offset, math.inf).argmin())
        _scene(axes, cloud, corners, 6)
        for taps, marker, colour, size in ((cells.regular, '+', _REGULAR, 30),
                                           (cells.predicted, 'o', bev.PREDICTION, 14)):
            axes.scatter(*_page(taps[cell]), s=size, marker=marker, color=colour, zorder=4, linewidths=1)
        (x, y), reach = boxes[box, :2].tolist(), max(2., float(boxes[box, 3:5].max()) * .75)
        axes.set(xlim=(-y - reach, -y + reach), ylim=(x - reach, x + reach), xticks=[], yticks=[])
        near = [float(point_fraction(t[cell, None], cells.points, cells.inside[cell, None]))
                for t in (cells.regular, cells.predicted)]
        axes.set_title(f'points near taps: {near[0]:.0%} grid, {near[1]:.0%} boundary', fontsize=7)
    handles = [whole.plot([], [], marker=m, color=c, linestyle=line, label=text)[0] for m, c, line, text in (
        ('', bev.TRUTH, '-', 'annotated box'), ('+', _REGULAR, '', 'taps of the regular 3x3 grid'),
        ('o', bev.PREDICTION, '', 'taps on the predicted boundary'))]
    figure.legend(handles=handles, loc='outside lower center', ncols=3, fontsize=8, facecolor='#0d1117', labelcolor='w')
    figure.suptitle(title or None, fontsize=10)
    return figure


def _page(xy: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (N, 2) in metres to right and up on the page; the sensor looks up."""
    return -xy[:, 1], xy[:, 0]


def _outlines(boxes: Tensor) -> Tensor:
    """Closed outlines (M, 5, 2) of boxes (M, 7)."""
    signs = boxes.new_tensor([(1, 1), (1, -1), (-1, -1), (-1, 1), (1, 1)]) / 2
    along, across = (signs * boxes[:, None, 3:5]).unbind(-1)
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    return boxes[:, None, :2] + torch.stack([cos * along - sin * across, sin * along + cos * across], -1)


def _scene(axes: Axes, cloud: Tensor, corners: Tensor, dot: float) -> None:
    """Points and boxes on a dark ground."""
    axes.set(facecolor='#0d1117', aspect='equal')
    axes.tick_params(labelsize=6)
    axes.scatter(*_page(cloud[:, :2]), s=dot, color='#5b8f6b', linewidths=0, zorder=1)
    for outline in corners:
        axes.plot(*_page(outline), color=bev.TRUTH, linewidth=1, zorder=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the statistic for checkpoints and draw a frame.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        The exit code.
    """
    from mmpapers.cli import runtime
    parser = argparse.ArgumentParser(prog='python -m mmpapers.projects.denfi.analysis', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a detector with a DENFINeck')
    parser.add_argument('checkpoints', nargs='*', metavar='checkpoint', help='weights (default: untrained)')
    parser.add_argument('--frames', type=int, default=20, help='validation frames to look at (default: 20)')
    parser.add_argument('--radius', type=float, default=0.3, help='what is near a tap, metres (default: 0.3)')
    parser.add_argument('--picture', type=Path, metavar='FILE', help='.png or .jpg to draw')
    parser.add_argument('--frame', type=int, default=0, help='number of the frame in the picture (default: 0)')
    parser.add_argument('--cfg-options', nargs='+', action=runtime.ConfigOptions, metavar='KEY=VALUE',
                        help='change settings of the config')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    """Build the detector, and look at each checkpoint."""
    from mmengine.logging import MMLogger
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import Runner, load_checkpoint

    from mmpapers import compat
    from mmpapers.cli import runtime
    if args.frames < 1 or not 0 <= args.frame < args.frames:
        raise runtime.UserError(f'--frame {args.frame} must be one of the --frames {args.frames} that are looked at')
    compat.setup()
    cfg = runtime.read_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    MMLogger.get_current_instance().setLevel('WARNING')
    model = MODELS.build(cfg.model).eval()
    if not hasattr(getattr(model, 'aux_neck', None), 'proposal'):
        raise runtime.UserError(f'{args.config} has no model.aux_neck=dict(type="mmpapers.DENFINeck", ...)')
    if not args.checkpoints:
        model.init_weights()
    loader = Runner.build_dataloader(cfg.val_dataloader | dict(num_workers=0, persistent_workers=False), seed=0)
    print('regular  predicted  annotated  (mean share of points near the nine taps)')
    for checkpoint in args.checkpoints or [None]:
        if checkpoint:
            load_checkpoint(model, checkpoint, map_location='cpu')
        seen = list(frames(model, loader, args.frames))
        print('{:7.3f}  {:9.3f}  {:9.3f}'.format(*mean_fractions([c for c, *_ in seen], args.radius)),
              Path(checkpoint).name if checkpoint else 'untrained', f'({len(seen)} frames)')
    if args.picture:
        if args.frame >= len(seen):
            raise runtime.UserError(f'--frame {args.frame}: there are only {len(seen)} frames')
        title = f'{Path(args.config).stem}, validation frame {args.frame}'
        bev.save(draw(*seen[args.frame], title=title), args.picture)
        print(args.picture)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
