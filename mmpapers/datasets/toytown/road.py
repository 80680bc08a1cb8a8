"""The ground of a scene: a bending road with lanes, paint, kerbs, pavements and a verge, given by exact formulas."""

import math
from dataclasses import dataclass

import numpy as np

from .draw import Draw
from .labels import LANE_MARKING, ROAD, SIDEWALK, VEGETATION

ASPHALT, WHITE_PAINT, YELLOW_PAINT, KERB, PAVING, GRASS = range(6)
SEMANTIC_OF_ZONE = np.array([ROAD, LANE_MARKING, LANE_MARKING, SIDEWALK, SIDEWALK, VEGETATION], np.uint8)
KERB_WIDTH = 0.18
PARKING_WIDTH = 2.2


@dataclass(frozen=True)
class Line:
    """A line painted along the road.

    Args:
        offset: Distance of its middle to the left of the ego lane's middle, metres.
        width: Width in metres.
        dash: Length of a dash; 0 for a solid line.
        gap: Length of a gap between dashes.
        phase: Where the first dash begins, metres.
        yellow: Yellow instead of white.
    """

    offset: float
    width: float
    dash: float = 0.0
    gap: float = 0.0
    phase: float = 0.0
    yellow: bool = False


@dataclass(frozen=True)
class Lane:
    """A lane: its middle, metres to the left of the ego lane's middle, and its direction (1 along x, -1 against)."""

    offset: float
    direction: int


@dataclass(frozen=True)
class Road:
    """A road whose middle line is ``y = bend x^2 / 2 + twist x^3 / 6``; the ego lane lies at lateral offset 0.

    Args:
        bend: Curvature at the ego vehicle, 1/m.
        twist: Change of the curvature, 1/m^2.
        lanes: Lanes from right to left.
        lane_width: Width of a lane, metres.
        lines: Painted lines from left to right; these are the lanes of the TuSimple file.
        left: Lateral offset of the left kerb.
        right: Lateral offset of the right kerb.
        parking: Whether there is a strip of parked cars at the (left, right) kerb.
        pavement: Width of the (left, right) pavement, metres; 0 for none.
        grass: Whether grass lies beyond the (left, right) pavement; paving otherwise.
        crossing: Interval of x of a zebra crossing.
        bar: Colour period of the zebra stripes, metres.
    """

    bend: float
    twist: float
    lanes: tuple[Lane, ...]
    lane_width: float
    lines: tuple[Line, ...]
    left: float
    right: float
    parking: tuple[bool, bool]
    pavement: tuple[float, float]
    grass: tuple[bool, bool]
    crossing: tuple[float, float] | None
    bar: float

    def middle(self, x: np.ndarray | float) -> np.ndarray | float:
        """Lateral position y of the ego lane's middle at x."""
        return x * x * (self.bend / 2 + x * (self.twist / 6))

    def heading(self, x: float) -> float:
        """Direction of the road at x, radians to the left, rounded to 1e-9."""
        return round(math.atan(x * (self.bend + x * (self.twist / 2))), 9)

    def zones(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Classify ground points.

        Args:
            x: Ego coordinates, any shape.
            y: Ego coordinates, same shape.

        Returns:
            Codes ASPHALT, WHITE_PAINT, YELLOW_PAINT, KERB, PAVING or GRASS, uint8, same shape.
        """
        lateral = y - self.middle(x)
        zone = np.full(x.shape, ASPHALT, np.uint8)
        for line in self.lines:
            painted = np.abs(lateral - line.offset) <= line.width / 2
            if line.dash:
                painted &= np.mod(x - line.phase, line.dash + line.gap) < line.dash
            zone[painted] = YELLOW_PAINT if line.yellow else WHITE_PAINT
        if self.crossing:
            inside = (x >= self.crossing[0] - 0.4) & (x <= self.crossing[1] + 0.4)
            zone[inside] = ASPHALT
            inside = (x >= self.crossing[0]) & (x <= self.crossing[1])
            zone[inside & (np.mod(lateral - self.right - 0.2, self.bar) < self.bar / 2)] = WHITE_PAINT
            stop = (x >= self.crossing[0] - 1.6) & (x <= self.crossing[0] - 1.2)
            ahead = [lane.offset for lane in self.lanes if lane.direction > 0]
            half = self.lane_width / 2 - 0.2
            zone[stop & (lateral >= min(ahead) - half) & (lateral <= max(ahead) + half)] = WHITE_PAINT
        for outside, width, grass in ((lateral - self.left, self.pavement[0], self.grass[0]),
                                      (self.right - lateral, self.pavement[1], self.grass[1])):
            zone[outside > 0] = KERB
            if width:
                zone[outside > KERB_WIDTH] = PAVING
            if grass:
                zone[outside > KERB_WIDTH + width] = GRASS
        return zone


def sample_road(draw: Draw, sides: tuple[str, str]) -> Road:
    """Draw a road with 2 to 4 lanes; ``sides`` are the surroundings on the left and right (see :mod:`.scenery`)."""
    bend = twist = 0.0
    if draw.chance(0.55):
        bend = draw.uniform(0.002, 0.011) * draw.pick((-1, 1))
        twist = draw.uniform(-1.0, 0.2) * bend / 60
    count = draw.pick((2, 3, 4), (5, 2, 3))
    ahead = draw.integer(1, 2) if count == 3 else (2 if count == 4 else draw.pick((1, 2), (5, 1)))
    width = draw.uniform(3.0, 3.6)
    ego = draw.integer(0, ahead - 1)
    lanes = tuple(Lane((index - ego) * width, 1 if index < ahead else -1) for index in range(count))
    parking = tuple(side != 'park' and draw.chance(0.4) for side in sides)
    right_lane, left_lane = lanes[0].offset - width / 2, lanes[-1].offset + width / 2
    right = right_lane - (PARKING_WIDTH if parking[1] else draw.uniform(0.25, 1.6))
    left = left_lane + (PARKING_WIDTH if parking[0] else draw.uniform(0.25, 1.6))
    lines = _lines(draw, lanes, ahead, width, right_lane, left_lane)
    pavement = tuple(draw.uniform(2.2, 4.2) if side != 'park' or draw.chance(0.7) else 0.0 for side in sides)
    grass = tuple(side != 'city' for side in sides)
    start = draw.uniform(9.0, 24.0)
    crossing = (start, start + draw.uniform(2.6, 3.6)) if draw.chance(0.28) else None
    return Road(bend, twist, lanes, width, lines, left, right, parking, pavement, grass, crossing,
                draw.uniform(0.9, 1.1))


def _lines(draw: Draw, lanes: tuple[Lane, ...], ahead: int, width: float, right: float,
           left: float) -> tuple[Line, ...]:
    """Paint lines between lanes, at the middle of the road and, mostly, at its edges."""
    thick = draw.uniform(0.12, 0.18)
    dash, gap = draw.pick(((3.0, 6.0), (3.0, 3.0), (2.0, 4.0), (4.0, 8.0)))
    phase = draw.uniform(0, 12)
    yellow = draw.chance(0.3)
    lines = []
    if draw.chance(0.75):
        lines += [Line(right + 0.1, thick), Line(left - 0.1, thick)]
    for index in range(1, len(lanes)):
        offset = (lanes[index - 1].offset + lanes[index].offset) / 2
        if index != ahead:
            lines.append(Line(offset, thick, dash, gap, phase))
        elif draw.chance(0.3):
            lines += [Line(offset + 0.14, 0.12, yellow=yellow), Line(offset - 0.14, 0.12, yellow=yellow)]
        elif draw.chance(0.5):
            lines.append(Line(offset, thick, yellow=yellow))
        else:
            lines.append(Line(offset, thick, dash, gap, phase, yellow))
    return tuple(sorted(lines, key=lambda line: -line.offset))
