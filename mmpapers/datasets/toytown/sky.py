"""Light of a weather: colours of sun, sky and haze, and the sky seen along rays."""

from dataclasses import dataclass

import numpy as np

from .materials import rgb
from .noise import fractal
from .scene import Weather


@dataclass(frozen=True)
class Light:
    """Linear colours, float32 (3,) each, and strengths.

    Args:
        sun: Irradiance of the direct sun; zero when it is hidden.
        ambient: Irradiance of the upper sky.
        bounce: Irradiance from the ground.
        zenith: Sky colour overhead.
        horizon: Sky colour at the horizon; haze takes it too.
        cloud: Colour of clouds.
        cover: Share of the sky that clouds take.
        lamps: Strength of lamps and lit windows.
        exposure: Factor before the tone curve.
        direction: Unit vector towards the sun.
    """

    sun: np.ndarray
    ambient: np.ndarray
    bounce: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    cover: float
    lamps: float
    exposure: float
    direction: np.ndarray


# kind: sun, ambient, zenith, horizon, cloud (colour, strength), cover, lamps, exposure
_TABLE = {
    'clear': (('fff0d8', 3.1), ('a8c8f0', 0.95), ('3f78c4', 1.0), ('c4d8ea', 1.05), ('ffffff', 1.35), 0.5, 0.12, 0.78),
    'overcast': (('ffffff', 0.0), ('dfe6ee', 1.55), ('b4bcc6', 0.85), ('d9dde0', 1.0), ('eef0f2', 1.0), 0.9, 0.15, 0.9),
    'fog': (('ffffff', 0.0), ('e4e8ea', 1.45), ('c9cfd3', 0.85), ('d4d8da', 0.88), ('d8dcde', 0.9), 0.5, 0.4, 0.88),
    'rain': (('ffffff', 0.0), ('c8d2dc', 1.2), ('848e9a', 0.62), ('b2bac2', 0.7), ('a4acb6', 0.66), 0.9, 0.5, 0.98),
    'dusk': (('ffa058', 1.9), ('9698c8', 1.0), ('3c4c88', 0.6), ('f0aa78', 0.95), ('dc8878', 0.8), 0.45, 1.0, 1.2)}


def light_of(weather: Weather, warmth: float = 0.0, brightness: float = 1.0) -> Light:
    """Look up the light of a weather.

    Args:
        weather: The weather.
        warmth: White balance error, about -0.06 (blue) to 0.06 (yellow).
        brightness: Exposure error, a factor around 1.
    """
    sun, ambient, zenith, horizon, cloud, cover, lamps, exposure = _TABLE[weather.kind]
    tint = np.array([1 + warmth, 1, 1 - warmth], np.float32)
    sun, ambient, zenith, horizon, cloud = (np.array(rgb(code), np.float32) * strength * tint
                                            for code, strength in (sun, ambient, zenith, horizon, cloud))
    height = np.float32(max(weather.sun[2], 0.15))
    bounce = (0.35 * ambient + 0.45 * sun * height) * np.array([0.30, 0.28, 0.25], np.float32)
    return Light(sun, ambient, bounce, zenith, horizon, cloud, cover, lamps, exposure * brightness,
                 np.array(weather.sun, np.float32))


def clear_sky(rays: np.ndarray, light: Light) -> np.ndarray:
    """Sky without clouds along unit vectors (N, 3); below the horizon the haze. Returns linear colours (N, 3)."""
    height = np.clip(rays[:, 2:], 0, 1)
    colour = light.horizon + (light.zenith - light.horizon) * (1 - np.exp(-4.5 * height))
    if light.sun.any():
        towards = np.clip(rays @ light.direction, 0, 1)[:, None]
        colour = colour + light.sun * (0.05 * towards ** 6 + 0.22 * towards ** 40)
        colour = colour + 6 * light.sun * np.clip((towards - 0.9988) / 0.0006, 0, 1)
    return colour.astype(np.float32)


def sky(rays: np.ndarray, light: Light, seed: int) -> np.ndarray:
    """Sky with clouds along unit vectors (N, 3). Returns linear colours (N, 3), float32."""
    colour = clear_sky(rays, light)
    height = np.clip(rays[:, 2:], 0, 1)
    plane = rays[:, :2] / (height + 0.09) * 0.9
    density = fractal(plane + seed % 97, 5, seed)
    shape = np.clip((density - (0.86 - 0.6 * light.cover)) / 0.2, 0, 1)
    lit = fractal(plane + seed % 97 + 0.18 * light.direction[:2], 3, seed)
    body = light.cloud * (0.78 + 0.5 * np.clip(density - lit + 0.35, 0, 0.7))[:, None]
    alpha = (shape * np.clip(height[:, 0] / 0.1, 0, 1) * 0.92)[:, None]
    return colour * (1 - alpha) + body * alpha
