"""Material codes of primitives and the colour tables of things; how a material looks is the renderer's matter."""

MATTE, PAINT, GLASS, FACADE, ROOF, LEAVES, BARK, HEADLAMP, TAILLAMP, LAMP, METAL = range(11)

Colour = tuple[float, float, float]


def rgb(code: str) -> Colour:
    """Linear albedo of an sRGB colour written as six hexadecimal digits."""
    red, green, blue = ((int(code[i:i + 2], 16) / 255) ** 2.2 for i in (0, 2, 4))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour."""
    red, green, blue = (min(c * factor, 1.0) for c in colour)
    return red, green, blue


BLACK, RUBBER, DARK = rgb('0c0c0e'), rgb('1b1b1d'), rgb('2a2b2e')
SILVER, WHITE, GLASS_TINT = rgb('b4b8bc'), rgb('f2f2ee'), rgb('20282e')
LAMP_WHITE, LAMP_RED, LAMP_AMBER = rgb('fff6de'), rgb('c01010'), rgb('f08a10')

CAR_PAINTS = tuple(map(rgb, ('eeeeea', 'c3c7ca', '82878c', '1d1f23', '23407e', '9c1b1f', '1f4a38', 'd8b021', 'b9a37c',
                             '5b7fa8', '6e2f24', 'd5702a')))
CAR_WEIGHTS = (16, 14, 12, 14, 11, 11, 5, 4, 4, 5, 3, 3)
VAN_PAINTS = tuple(map(rgb, ('f1f1ec', 'e9e4d2', 'd9a72a', '2f5f9e', '8f979e', '9e2a24', '2c6b4f')))
VAN_WEIGHTS = (12, 4, 4, 4, 4, 3, 2)
STRIPES = tuple(map(rgb, ('c4242a', '1f5fae', '2d8a4e', 'e08a1e', '333a44')))

SKIN = tuple(map(rgb, ('f0c6a4', 'e0ac86', 'c68a60', '8f5a3a', '5f3b28')))
HAIR = tuple(map(rgb, ('17120f', '3a2616', '6b4423', 'b08a4a', '8c8c88')))
SHIRTS = tuple(map(rgb, ('c8323a', '2c5aa8', 'e8e6df', '2f7d4f', 'e0a526', '6a3f8c', '22252c', '8fb6d8', 'd86a8c',
                         'd97a2c', '4f5a3a', '9a9a9a')))
TROUSERS = tuple(map(rgb, ('22304e', '2b2b2f', '5a5148', '7e8288', 'a3906c', '3f4a38', '141416')))
HELMETS = tuple(map(rgb, ('f2f2f2', 'd8262c', '1f1f22', 'e8d020', '2c6fb8')))
FRAMES = tuple(map(rgb, ('c02028', '1c1c20', '2a62b0', 'd0d0d0', '2e8b57', 'e0b020')))

WALLS = tuple(map(rgb, ('a65a45', 'b9785e', 'c9b08a', 'd8cbb0', '9aa0a4', 'b8bcbc', 'c7965c', '8c6a58', 'a8b4bc',
                        'e2ddd0', '8e9a86', 'c48f86')))
ROOFS = tuple(map(rgb, ('8e4a38', '6b3a2e', '4e4a48', '5f6468', '7a5a44')))
LEAF = tuple(map(rgb, ('4d7a2e', '3f6b2a', '5f8c38', '6f9440', '35592a', '7a8c35')))
AUTUMN = tuple(map(rgb, ('b5762a', 'c4912e', '9c5426')))
SIGNS = tuple(map(rgb, ('c8262a', '1f56a8', 'e8c020')))
