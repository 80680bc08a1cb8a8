"""Road users made of primitives: cars, vans, pedestrians and cyclists, each in its own frame, facing along x."""

from . import materials as m
from .draw import Draw, sincos
from .geometry import RING, Parts


def car(draw: Draw) -> Parts:
    """A saloon, hatchback or estate, 3.7 to 4.8 m long."""
    parts = Parts()
    style = draw.pick(('saloon', 'hatchback', 'estate', 'suv'), (4, 4, 2, 3))
    length = draw.uniform(*{'hatchback': (3.7, 4.15), 'saloon': (4.3, 4.8)}.get(style, (4.3, 4.75)))
    width = draw.uniform(1.7, 1.86)
    height = draw.uniform(1.6, 1.75) if style == 'suv' else draw.uniform(1.4, 1.52)
    paint = draw.pick(m.CAR_PAINTS, m.CAR_WEIGHTS)
    front, back, belt, radius = length / 2, -length / 2, 0.6 * height, 0.21 * height
    parts.prism((back + 0.06, front - 0.06), (back, front), 0.2, 0.48, width * 0.97, m.shade(paint, 0.85), m.PAINT)
    parts.prism((back, front), (back + 0.07, front - 0.16), 0.48, belt - 0.08, width, paint, m.PAINT)
    parts.prism((back + 0.07, front - 0.16), (back + 0.16, 0.2 * length), belt - 0.08, belt + 0.03, width * 0.96,
                paint, m.PAINT)
    rear = {'saloon': (-0.37, -0.24), 'hatchback': (-0.48, -0.4), 'estate': (-0.485, -0.43), 'suv': (-0.48, -0.41)}
    glass_back, roof_back = (value * length for value in rear[style])
    glass_front, roof_front = 0.25 * length, 0.08 * length
    parts.prism((glass_back, glass_front), (roof_back, roof_front), belt, height - 0.04, width * 0.86, m.GLASS_TINT,
                m.GLASS)
    parts.prism((roof_back - 0.05, roof_front + 0.08), (roof_back + 0.1, roof_front - 0.12), height - 0.07, height,
                width * 0.83, paint, m.PAINT)
    for post in (-0.08 * length, glass_back + 0.12):
        lean = 0.0 if post > glass_back + 0.2 else roof_back - glass_back
        parts.prism((post, post + 0.1), (post + lean, post + lean + 0.1), belt, height - 0.05, width * 0.868,
                    m.shade(paint, 0.8), m.PAINT)
    _wheels(parts, (0.31 * length, -0.31 * length), width, radius + 0.02)
    lamp = draw.uniform(0.26, 0.4)
    for side in (-1, 1):
        parts.box((front - 0.12, side * (width / 2 - lamp / 2 - 0.05), belt - 0.2), (0.14, lamp, 0.14), m.LAMP_WHITE,
                  m.HEADLAMP)
        parts.box((back + 0.03, side * (width / 2 - 0.17), belt - 0.14), (0.1, 0.3, 0.15), m.LAMP_RED, m.TAILLAMP)
        parts.box((0.2 * length, side * (width / 2 + 0.07), belt + 0.06), (0.12, 0.2, 0.13), paint, m.PAINT)
    parts.box((front - 0.05, 0, 0.42), (0.12, width * 0.55, 0.16), m.BLACK, m.MATTE)
    parts.box((front - 0.02, 0, 0.34), (0.1, 0.46, 0.1), m.WHITE, m.MATTE)
    parts.box((back + 0.01, 0, 0.5), (0.06, 0.46, 0.1), m.WHITE, m.MATTE)
    parts.box((0, 0, 0.22), (length * 0.97, width * 0.9, 0.12), m.BLACK, m.MATTE)
    return parts


def van(draw: Draw) -> Parts:
    """A delivery van or minibus, 4.9 to 5.9 m long and at least 2 m high."""
    parts = Parts()
    length, width, height = draw.uniform(4.9, 5.9), draw.uniform(1.9, 2.05), draw.uniform(2.1, 2.6)
    paint = draw.pick(m.VAN_PAINTS, m.VAN_WEIGHTS)
    front, back, belt = length / 2, -length / 2, 1.15
    parts.prism((back, front), (back, front - 0.1), 0.28, 0.75, width, m.shade(paint, 0.85), m.PAINT)
    parts.prism((back, front - 0.1), (back, front - 0.45), 0.75, belt, width, paint, m.PAINT)
    parts.prism((back, front - 0.5), (back + 0.06, front - 1.25), belt, height, width * 0.97, paint, m.PAINT)
    parts.prism((front - 1.6, front - 0.47), (front - 1.9, front - 1.16), belt, height - 0.22, width * 0.9,
                m.GLASS_TINT, m.GLASS)
    parts.prism((front - 1.75, front - 0.85), (front - 1.75, front - 1.2), belt + 0.04, height - 0.42, width * 0.985,
                m.GLASS_TINT, m.GLASS)
    if draw.chance(0.45):
        parts.box((back / 2 + 0.25, 0, (belt + height) / 2 - 0.08), (length * 0.5, width * 0.985, 0.62), m.GLASS_TINT,
                  m.GLASS)
    else:
        band = draw.pick(m.STRIPES)
        parts.box((back / 2 + 0.2, 0, draw.uniform(1.15, 1.5)), (length * 0.56, width * 0.99, draw.uniform(0.2, 0.6)),
                  band, m.PAINT)
    for side in (-1, 1):
        parts.box((back + 0.03, side * width * 0.23, height - 0.62), (0.1, width * 0.38, 0.5), m.GLASS_TINT, m.GLASS)
        parts.box((back + 0.02, side * (width / 2 - 0.09), 1.05), (0.08, 0.13, 0.55), m.LAMP_RED, m.TAILLAMP)
        parts.box((front - 0.12, side * (width / 2 - 0.2), 0.82), (0.14, 0.3, 0.22), m.LAMP_WHITE, m.HEADLAMP)
        parts.box((front - 0.75, side * (width / 2 + 0.1), belt + 0.2), (0.12, 0.2, 0.3), m.BLACK, m.MATTE)
    parts.box((back + 0.01, 0, 1.2), (0.05, 0.03, 1.7), m.BLACK, m.MATTE)
    parts.box((front - 0.05, 0, 0.66), (0.14, width * 0.5, 0.18), m.BLACK, m.MATTE)
    parts.box((back + 0.02, 0, 0.42), (0.12, width * 0.96, 0.16), m.DARK, m.MATTE)
    parts.box((front - 0.02, 0, 0.4), (0.12, width * 0.96, 0.2), m.DARK, m.MATTE)
    parts.box((back, 0.3, 0.62), (0.06, 0.46, 0.1), m.WHITE, m.MATTE)
    _wheels(parts, (0.33 * length, -0.3 * length), width, 0.34)
    return parts


def pedestrian(draw: Draw, umbrella: bool = False) -> Parts:
    """A walking or standing person, 1.2 to 1.9 m tall."""
    parts = Parts()
    tall = draw.uniform(1.2, 1.45) if draw.chance(0.12) else draw.uniform(1.58, 1.9)
    s = tall / 1.75
    skin, hair = draw.pick(m.SKIN), draw.pick(m.HAIR)
    shirt, trousers = draw.pick(m.SHIRTS), draw.pick(m.TROUSERS)
    stride = draw.uniform(-0.32, 0.32)
    stout = draw.uniform(0.9, 1.2)
    hip, shoulder, coat = 0.88 * s, 1.42 * s, draw.chance(0.3)
    for side in (-1, 1):
        reach = side * stride * s
        y = side * 0.095 * s
        knee = (0.55 * reach + 0.04 * s, y, 0.47 * s)
        foot = (reach, y, 0.09 * s)
        parts.rod((0, y, hip + 0.04 * s), knee, 0.085 * s * stout, trousers, m.MATTE)
        parts.rod(knee, foot, 0.065 * s, trousers, m.MATTE)
        parts.ellipsoid((reach + 0.06 * s, y, 0.055 * s), (0.14 * s, 0.055 * s, 0.055 * s), m.DARK, m.MATTE)
        arm = side * 0.235 * s * stout
        if umbrella and side > 0:
            elbow, hand = (0.05 * s, arm, 1.15 * s), (0.25 * s, arm * 0.8, 1.25 * s)
        else:
            elbow, hand = (-0.45 * reach, arm * 1.1, 1.12 * s), (-0.75 * reach + 0.06 * s, arm * 1.05, 0.86 * s)
        parts.rod((0, arm * 0.9, shoulder), elbow, 0.055 * s, shirt, m.MATTE)
        parts.rod(elbow, hand, 0.045 * s, shirt, m.MATTE)
        parts.ellipsoid(hand, (0.05 * s, 0.045 * s, 0.06 * s), skin, m.MATTE)
    parts.rod((0, 0, hip - 0.02 * s), (0.01, 0, shoulder), 0.125 * s * stout, shirt, m.MATTE, flat=1.5)
    parts.ellipsoid((0, 0, shoulder), (0.11 * s, 0.2 * s * stout, 0.09 * s), shirt, m.MATTE)
    parts.ellipsoid((0, 0, hip), (0.13 * s * stout, 0.18 * s * stout, 0.12 * s), shirt if coat else trousers, m.MATTE)
    if coat:
        parts.rod((0, 0, 0.55 * s), (0, 0, hip), 0.16 * s, shirt, m.MATTE, flat=1.3)
    parts.rod((0, 0, shoulder), (0.01, 0, shoulder + 0.12 * s), 0.05 * s, skin, m.MATTE)
    _head(parts, (0.02 * s, 0, 1.635 * s), s, skin, hair)
    if draw.chance(0.25):
        parts.box((-0.2 * s, 0, 1.22 * s), (0.18 * s, 0.3 * s, 0.42 * s), draw.pick(m.SHIRTS), m.MATTE)
    if umbrella:
        parts.rod((0.25 * s, 0.18 * s, 1.2 * s), (0.15 * s, 0.1 * s, 2.12 * s), 0.015, m.DARK, m.METAL)
        parts.ellipsoid((0.14 * s, 0.1 * s, 2.0 * s), (0.52 * s, 0.52 * s, 0.2 * s), draw.pick(m.SHIRTS), m.MATTE)
    return parts


def cyclist(draw: Draw) -> Parts:
    """A person riding a bicycle; the machine and the rider are one object."""
    parts = Parts()
    frame, skin = draw.pick(m.FRAMES), draw.pick(m.SKIN)
    shirt, trousers = draw.pick(m.SHIRTS), draw.pick(m.TROUSERS)
    radius, base = 0.34, 0.52
    for x in (-base, base):
        parts.rod((x, -0.03, radius), (x, 0.03, radius), radius, m.RUBBER, m.MATTE, kind=RING)
        parts.rod((x, -0.05, radius), (x, 0.05, radius), 0.04, m.SILVER, m.METAL)
        for spoke in range(4):
            sine, cosine = sincos(0.3 + spoke * 0.7853981634)
            parts.rod((x - cosine * radius * 0.9, 0, radius - sine * radius * 0.9),
                      (x + cosine * radius * 0.9, 0, radius + sine * radius * 0.9), 0.006, m.SILVER, m.METAL)
    crank, seat, head = (-0.08, 0, 0.3), (-0.24, 0, 0.86), (0.36, 0, 0.86)
    for start, end in ((crank, seat), (crank, head), (seat, head), (seat, (-base, 0, radius)),
                       (crank, (-base, 0, radius)), (head, (base, 0, radius)), (head, (0.4, 0, 1.0))):
        parts.rod(start, end, 0.024, frame, m.PAINT)
    parts.rod((0.38, -0.26, 1.02), (0.38, 0.26, 1.02), 0.018, m.DARK, m.METAL)
    parts.ellipsoid((-0.26, 0, 0.92), (0.14, 0.08, 0.045), m.BLACK, m.MATTE)
    turn = draw.uniform(0, 6.2832)
    sine, cosine = sincos(turn)
    upright = draw.uniform(0.0, 1.0)
    shoulder = (0.02 + 0.14 * (1 - upright), 0, 1.4 + 0.06 * upright)
    for side in (-1, 1):
        pedal = (crank[0] + side * cosine * 0.16, side * 0.1, crank[2] + side * sine * 0.16)
        knee = (0.2 + 0.35 * (pedal[0] - crank[0]), side * 0.11, 0.66 + 0.5 * (pedal[2] - crank[2]))
        parts.rod((-0.22, side * 0.1, 0.96), knee, 0.085, trousers, m.MATTE)
        parts.rod(knee, pedal, 0.06, trousers, m.MATTE)
        parts.ellipsoid((pedal[0] + 0.05, pedal[1], pedal[2]), (0.13, 0.05, 0.05), m.DARK, m.MATTE)
        elbow = (0.2, side * 0.27, 1.15)
        parts.rod((shoulder[0], side * 0.19, shoulder[2]), elbow, 0.055, shirt, m.MATTE)
        parts.rod(elbow, (0.37, side * 0.23, 1.04), 0.045, shirt if upright > 0.5 else skin, m.MATTE)
    parts.rod((-0.23, 0, 0.94), shoulder, 0.135, shirt, m.MATTE, flat=1.4)
    parts.ellipsoid(shoulder, (0.12, 0.22, 0.1), shirt, m.MATTE)
    centre = (shoulder[0] + 0.07, 0, shoulder[2] + 0.22)
    parts.rod(shoulder, centre, 0.05, skin, m.MATTE)
    _head(parts, centre, 1.0, skin, draw.pick(m.HELMETS if draw.chance(0.65) else m.HAIR))
    if draw.chance(0.3):
        parts.box((-0.2, 0, 1.22), (0.2, 0.3, 0.42), draw.pick(m.SHIRTS), m.MATTE)
    return parts


def _wheels(parts: Parts, places: tuple[float, float], width: float, radius: float) -> None:
    """Four wheels with dark arches and bright hubs."""
    for x in places:
        for side in (-1, 1):
            y = side * width / 2
            parts.rod((x, y - side * 0.3, radius + 0.07), (x, y + side * 0.004, radius + 0.07), radius + 0.06, m.BLACK,
                      m.MATTE)
            parts.rod((x, y - side * 0.24, radius), (x, y + side * 0.012, radius), radius, m.RUBBER, m.MATTE)
            parts.rod((x, y - side * 0.1, radius), (x, y + side * 0.02, radius), radius * 0.62, m.SILVER, m.METAL)
            parts.rod((x, y - side * 0.1, radius), (x, y + side * 0.026, radius), radius * 0.2, m.DARK, m.METAL)


def _head(parts: Parts, centre: tuple[float, float, float], s: float, skin: m.Colour, cover: m.Colour) -> None:
    """A head with hair or a helmet."""
    x, y, z = centre
    parts.ellipsoid(centre, (0.1 * s, 0.085 * s, 0.125 * s), skin, m.MATTE)
    parts.ellipsoid((x - 0.025 * s, y, z + 0.035 * s), (0.105 * s, 0.1 * s, 0.112 * s), cover, m.MATTE)


BUILDERS = {'car': car, 'van': van, 'pedestrian': pedestrian, 'cyclist': cyclist}
