"""Conceptual scenes: objects completed by the dense ones of the same data set that are seen from the same side.

The construction follows section 3.2 of Associate-3Ddet (CVPR 2020, arXiv 2006.04356), of which no code was released;
the number of bins, the share of candidates and how sizes are normalised are our choice.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from mmpapers.datasets.points import in_box
from mmpapers.registry import TASK_UTILS

_INSIDE = 0.4999  # pasted points keep this far from the faces, so that rounding leaves them in their box
_QUERIES = 256  # points of an object that are compared; of more, evenly chosen ones


@dataclass
class Cut:
    """An object in its box's frame.

    Args:
        points: (n, D); x, y, z as shares of the size, from -0.5 to 0.5, then what else a point has.
        size: Length, width, height in metres.
        source: The object whose points take its place; None for an object that is left as it is.
    """

    points: np.ndarray
    size: np.ndarray
    source: 'Cut | None' = None


@dataclass
class Group:
    """Objects of one class and bin."""

    members: list[Cut] = field(default_factory=list)
    candidates: int = 0


@TASK_UTILS.register_module()
class ConceptualSceneBuilder:
    """Replace sparse objects by dense ones: :meth:`add` all scenes, :meth:`match`, then :meth:`build` each.

    Objects of a class are divided by their heading relative to the sensor's ray into ``bins``, so that both show the
    same side. Of each bin the ``share`` with the most points are candidates and stay as they are. Every other object
    with a point becomes the candidate with the smallest mean distance from its points to their closest ones, both
    scaled to the class's mean size; the candidate is scaled to its box.

    Args:
        bins: Bins M of the heading; the first is centred on 0.
        share: Share K of candidates; a bin has at least one.
        most: Candidates of a bin that others are compared with: the densest ones. It bounds the time.

    Raises:
        ValueError: If one of them is out of range.
    """

    def __init__(self, bins: int = 8, share: float = 0.2, most: int = 200) -> None:
        if bins < 1 or most < 1 or not 0 < share <= 1:
            raise ValueError(f'bins={bins} and most={most} must be positive, and share={share} in (0, 1]')
        self.bins, self.share, self.most = bins, share, most
        self.groups: dict[tuple[str, int], Group] = {}
        self.scenes: dict[str, list[Cut | None]] = {}

    def add(self, key: str, points: np.ndarray, boxes: np.ndarray, names: Sequence[str | None]) -> None:
        """Cut the objects out of a scene.

        Args:
            key: Name of the scene.
            points: (N, D) x, y, z first, in the sensor's frame.
            boxes: (M, 7 or more) x, y, z of the middle of the lower face, length, width, height, yaw.
            names: Class of each box; None for objects that stay as they are.
        """
        owner, cuts = owners(points, boxes), []
        for index, (box, name) in enumerate(zip(boxes, names, strict=True)):
            cut = None
            if name is not None and (box[3:6] > 0).all():
                cut = Cut(to_box(points[owner == index], box), np.asarray(box[3:6], np.float64))
                self.groups.setdefault((name, self.bin(box)), Group()).members.append(cut)
            cuts.append(cut)
        self.scenes[key] = cuts

    def bin(self, box: np.ndarray) -> int:
        """The bin of a box's heading relative to the ray from the sensor to its middle."""
        width = 2 * math.pi / self.bins
        return math.floor(((box[6] - math.atan2(box[1], box[0])) + width / 2) / width) % self.bins

    def match(self) -> None:
        """Choose candidates, and one of them for every other object."""
        sizes: dict[str, list[np.ndarray]] = {}
        for (name, _), group in self.groups.items():
            sizes.setdefault(name, []).extend(cut.size for cut in group.members)
        for (name, _), group in self.groups.items():
            mean = np.mean(sizes[name], 0)
            order = sorted(group.members, key=lambda cut: -len(cut.points))
            group.candidates = math.ceil(self.share * len(order))
            dense = [cut for cut in order[:min(group.candidates, self.most)] if len(cut.points)]
            trees = [cKDTree(cut.points[:, :3] * mean) for cut in dense]
            for cut in order[group.candidates:]:
                if len(cut.points):
                    queries = cut.points[::math.ceil(len(cut.points) / _QUERIES), :3] * mean
                    cut.source = dense[int(np.argmin([tree.query(queries)[0].mean() for tree in trees]))]

    def build(self, key: str, points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Make the conceptual cloud of a scene.

        Args:
            key: Name of a scene that was added.
            points: Its points (N, D).
            boxes: Its boxes (M, 7 or more).

        Returns:
            (N', D) of the points' type: those that stay, in their order, then those of the replaced objects.
        """
        owner, pasted, gone = owners(points, boxes), [], np.zeros(len(points), bool)
        for index, (box, cut) in enumerate(zip(boxes, self.scenes[key], strict=True)):
            if cut is not None and cut.source is not None:
                gone |= owner == index
                pasted.append(from_box(cut.source.points, box).astype(points.dtype))
        return np.concatenate([points[~gone], *pasted])

    def summary(self) -> dict[str, dict[str, int]]:
        """Objects, candidates and replaced ones by class."""
        found: dict[str, Counter] = {}
        for (name, _), group in sorted(self.groups.items()):
            found.setdefault(name, Counter()).update(
                objects=len(group.members), candidates=group.candidates,
                replaced=sum(cut.source is not None for cut in group.members))
        return {name: dict(counts) for name, counts in found.items()}


def owners(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The first box that holds each point, or -1; (N,)."""
    owner = np.full(len(points), -1)
    for index in reversed(range(len(boxes))):
        owner[members(points, boxes[index])] = index
    return owner


def members(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Indices of the points in a box whose z is that of its lower face."""
    centre = np.array(box[:7], np.float64)
    centre[2] += centre[5] / 2
    return in_box(points, centre)


def to_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Points (n, D) in the frame of a box, as shares of its size."""
    out = points.astype(np.float64)
    x, y = (points[:, :2] - box[:2].astype(np.float64)).T
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    out[:, :2] = np.stack([cosine * x + sine * y, cosine * y - sine * x], 1)
    out[:, 2] -= box[2] + box[5] / 2
    out[:, :3] /= box[3:6]
    return out


def from_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_box`; points on the faces are drawn inside a little."""
    out = points.copy()
    x, y, z = (points[:, :3].clip(-_INSIDE, _INSIDE) * box[3:6]).T
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    out[:, :3] = np.stack([cosine * x - sine * y + box[0], sine * x + cosine * y + box[1], z + box[2] + box[5] / 2], 1)
    return out
