"""Bird's-eye pictures of point clouds with boxes, drawn by matplotlib without a display."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

TRUTH, PREDICTION = '#35c9ff', '#ff9a2e'  # told apart by colour-blind readers too
_BACKGROUND, _PAPER, _INK = '#0d1117', '#ffffff', '#24292f'
_HEIGHTS = LinearSegmentedColormap.from_list('heights', colormaps['viridis'](np.linspace(0.22, 1, 128)))
_DOTS = 110  # per inch
_AHEAD = {'lidar': 'x', 'nuscenes': 'y', 'depth': 'y', 'camera': 'z'}


@dataclass
class Seen:
    """Boxes seen from above.

    Args:
        bev: (N, 5) centre (two coordinates), length, width, yaw from the first coordinate's axis to the second's, as
            ``BaseInstance3DBoxes.bev`` has them; metres, radians.
        labels: (N,) class indices; -1 is left out.
        scores: (N,) confidences; None for ground truth.
        headed: Whether yaw says where the front is.
    """

    bev: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    headed: bool = True

    def kept(self, least: float) -> 'Seen':
        """The boxes of known classes with a score of ``least`` or more."""
        keep = self.labels >= 0
        if self.scores is not None:
            keep = keep & (self.scores >= least)
        return Seen(self.bev[keep], self.labels[keep], None if self.scores is None else self.scores[keep], self.headed)


def draw_bev(points: np.ndarray | None, truth: Seen | None = None, predictions: Seen | None = None,
             classes: Sequence[str] = (), coordinates: str = 'lidar', limits: Sequence[float] | None = None,
             score_thr: float = 0.3, title: str = '', size: float = 10.0) -> Figure:
    """Draw one cloud: points coloured by height, ground truth in blue, predictions in orange with class and score.

    The sensor looks up the page. Boxes have a line from the middle to the front.

    Args:
        points: (N, 3 or more) x, y, z first, in the coordinates of the boxes; None for none.
        truth: Annotated boxes.
        predictions: Predicted boxes.
        classes: Class names by label.
        coordinates: ``'lidar'`` (x ahead, y left), ``'nuscenes'`` (its LiDAR: x right, y ahead), ``'depth'`` (a room,
            y up the page) or ``'camera'`` (x right, z ahead).
        limits: Part of the plane to draw, ``(a0, b0, a1, b1)`` in the boxes' two coordinates; by default all
            predictions and nearly all points, so that ground truth may lie outside.
        score_thr: Lowest score that is drawn.
        title: Text above the picture.
        size: Length of the longer side, inches at 110 dots.

    Returns:
        The figure; :func:`save` writes it.

    Raises:
        ValueError: For other coordinates.
    """
    if coordinates not in _AHEAD:
        raise ValueError(f'coordinates must be one of {", ".join(_AHEAD)}, not {coordinates!r}')
    plane, height = ([0, 2], 1) if coordinates == 'camera' else ([0, 1], 2)
    points = np.zeros((0, 3)) if points is None else np.asarray(points)[:, :3]
    points = points[np.isfinite(points).all(1)]
    truth = (truth or Seen(np.zeros((0, 5)), np.zeros(0, int))).kept(0)
    predictions = (predictions or Seen(np.zeros((0, 5)), np.zeros(0, int), np.zeros(0))).kept(score_thr)
    turn = np.array([[0., -1], [1, 0]]) if coordinates == 'lidar' else np.eye(2)  # to right and up on the page
    outlines = [_corners(boxes.bev) @ turn.T for boxes in (truth, predictions)]
    spots = points[:, plane] @ turn.T
    if limits is None:
        low, high = _extent(spots, outlines[1].reshape(-1, 2), outlines[0].reshape(-1, 2))
    else:
        ends = np.array(limits, float).reshape(2, 2) @ turn.T
        low, high = ends.min(0), ends.max(0)
    figure = Figure(_shape(high - low, size), dpi=_DOTS, facecolor=_PAPER, layout='compressed')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=_BACKGROUND)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect='equal')
    _points(figure, axes, spots, points[:, height] * (-1 if coordinates == 'camera' else 1), low, high)
    _boxes(axes, truth, outlines[0], TRUTH, 2.6)  # shows on both sides of a prediction that covers it
    _boxes(axes, predictions, outlines[1], PREDICTION, 1.1)
    scale = 0.85 * size * _DOTS / (high - low).max()  # dots a metre, nearly
    _names(axes, predictions, outlines[1], classes, low, high, scale)
    side = {'lidar': 'y, metres to the left', 'depth': 'x, metres'}.get(coordinates, 'x, metres to the right')
    axes.set_xlabel(side, color=_INK)
    axes.set_ylabel(f'{_AHEAD[coordinates]}, metres' + ' ahead' * (coordinates != 'depth'), color=_INK)
    if coordinates == 'lidar':
        axes.xaxis.set_major_formatter(lambda value, _: f'{0 - value:g}'.replace('-', '\N{MINUS SIGN}'))
    axes.grid(color='#ffffff', alpha=0.12, linewidth=0.6)
    if coordinates != 'depth' and (low <= 0).all() and (high >= 0).all():
        axes.plot(0, 0, marker='^', color='#ffffff', markersize=7, zorder=6)
    outside = int(((outlines[0] < low) | (outlines[0] > high)).any(2).all(1).sum())
    _heading(axes, truth, predictions, classes, score_thr, title, outside)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches='tight', pad_inches=0.1)


def _corners(bev: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 2) of boxes, the front side first."""
    bev = np.asarray(bev, float).reshape(-1, 5)
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) / 2
    local = signs * bev[:, None, 2:4]
    cos, sin = np.cos(bev[:, 4, None]), np.sin(bev[:, 4, None])
    return bev[:, None, :2] + np.stack([cos * local[..., 0] - sin * local[..., 1],
                                        sin * local[..., 0] + cos * local[..., 1]], -1)


def _extent(spots: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends (2,) that hold all predictions and 99 % of the points a side, or what there is."""
    ends = np.concatenate([np.quantile(spots, (0.005, 0.995), axis=0) if len(spots) else true, predicted])
    ends = ends if len(ends) else np.array([(-1., -1), (1, 1)])
    margin = 0.04 * max((ends.max(0) - ends.min(0)).max(), 1)
    return ends.min(0) - margin, ends.max(0) + margin


def _shape(extent: np.ndarray, size: float) -> tuple[float, float]:
    """Width and height of the page for an extent, neither side under 60 % of the other."""
    width, height = np.maximum(extent / extent.max(), 0.6) * size
    return width, height


def _points(figure: Figure, axes: Axes, spots: np.ndarray, heights: np.ndarray, low: np.ndarray, high: np.ndarray
            ) -> None:
    """Points as dots coloured by height, the highest on top."""
    inside = ((spots >= low) & (spots <= high)).all(1)
    spots, heights = spots[inside], heights[inside]
    if not len(spots):
        return
    bottom, top = np.quantile(heights, (0.02, 0.98))
    order = np.argsort(heights)
    dot = float(np.clip(50000 / len(spots), 0.4, 2.5))
    drawn = axes.scatter(*spots[order].T, c=heights[order], s=dot, cmap=_HEIGHTS, vmin=bottom,
                         vmax=max(top, bottom + 0.1), linewidths=0, zorder=1, rasterized=True)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, shrink=0.5)
    bar.set_label('height, metres', color=_INK)


def _boxes(axes: Axes, boxes: Seen, outline: np.ndarray, colour: str, width: float) -> None:
    """Outlines, and a line to the front."""
    closed = np.concatenate([outline, outline[:, :1]], 1)
    axes.add_collection(LineCollection(closed, colors=colour, linewidths=width, zorder=4))
    if boxes.headed:
        middle, front = outline.mean(1), outline[:, :2].mean(1)
        axes.add_collection(LineCollection(np.stack([middle, front], 1), colors=colour, linewidths=width, zorder=4))


def _names(axes: Axes, boxes: Seen, outline: np.ndarray, classes: Sequence[str], low: np.ndarray, high: np.ndarray,
           scale: float) -> None:
    """Class and score beside predictions, the best-scored first; one that would cover another is left out."""
    font, taken = 6.5, np.zeros((0, 4))
    for index in np.argsort(-boxes.scores, kind='stable'):
        text = f'{_name(classes, boxes.labels[index])} {boxes.scores[index]:.2f}'
        corner = outline[index][outline[index].sum(1).argmax()]
        size = np.array((0.65 * len(text), 1.4)) * font / 72 * _DOTS / scale
        start = np.minimum(corner, high - size)
        free = (start >= taken[:, 2:]).any(1) | (start + size <= taken[:, :2]).any(1)
        if (corner >= low).all() and (corner <= high).all() and free.all():
            taken = np.vstack([taken, np.concatenate([start, start + size])])
            axes.annotate(text, start, (2, 1), textcoords='offset points', fontsize=font, color=PREDICTION, zorder=5,
                          bbox=dict(facecolor=_BACKGROUND, edgecolor='none', alpha=0.65, pad=0.6))


def _name(classes: Sequence[str], label: int) -> str:
    """Name of a class, or its number."""
    return classes[label] if label < len(classes) else str(label)


def _heading(axes: Axes, truth: Seen, predictions: Seen, classes: Sequence[str], score_thr: float, title: str,
             outside: int) -> None:
    """Title, and what is drawn in which colour."""
    def content(boxes: Seen) -> str:
        names = Counter(_name(classes, label) for label in boxes.labels.tolist()).most_common(5)
        more = len(set(boxes.labels.tolist())) - len(names)
        return ', '.join(f'{count} {name}' for name, count in names) + (f', {more} more classes' if more > 0 else '') \
            or 'none'

    beyond = f' ({outside} outside the picture)' if outside else ''
    lines = [(TRUTH, f'ground truth: {content(truth)}{beyond}'),
             (PREDICTION, f'predictions, score {score_thr:g} or more: {content(predictions)}')]
    handles = [axes.plot([], [], color=colour, linewidth=2.5, label=text)[0] for colour, text in lines]
    axes.legend(handles=handles, loc='lower left', bbox_to_anchor=(0, 1), fontsize=8, frameon=False, labelcolor=_INK,
                title=title or None, title_fontsize=11, alignment='left', borderaxespad=0.2)
