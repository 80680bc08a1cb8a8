"""Reading image files for the checks: which are there, which are broken, how large they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SAMPLE = 64
_MANY = 20000


@dataclass
class Probe:
    """What a look at some images found.

    Args:
        broken: File name and reason of each image that cannot be decoded.
        sizes: (height, width) of each that can.
    """

    broken: list[tuple[str, str]] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


def sample(items: Sequence, count: int = SAMPLE) -> list:
    """Return at most ``count`` items spread evenly, first and last included; all if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def absent(paths: Sequence[Path]) -> list[Path]:
    """Return those of up to 20000 (evenly spread) paths that are no files; folders are listed once."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for path in sample(paths, _MANY):
        if path.parent not in listed:
            listed[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            missing.append(path)
    return missing


def probe(paths: Sequence[Path], count: int = SAMPLE) -> Probe:
    """Decode a sample of the images that exist.

    Args:
        paths: Image files.
        count: How many are decoded at most.
    """
    found = Probe()
    for path in sample(paths, count):
        try:
            with Image.open(path) as image:
                image.load()
                found.sizes[str(path)] = (image.height, image.width)
        except FileNotFoundError:
            continue
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... for a broken file
            found.broken.append((str(path), str(error).split('\n')[0] or type(error).__name__))
    return found


def read_mask(path: Path) -> np.ndarray | str:
    """Read a label image as mmseg does.

    Returns:
        Labels (H, W), or a sentence about what is wrong with the file.
    """
    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except Exception as error:
        return f'cannot be decoded ({str(error).splitlines()[0] if str(error) else type(error).__name__})'
    if mask.ndim == 3:
        return f'has {mask.shape[2]} channels ({image.mode}); labels must be one 8-bit channel of class indices'
    return mask
