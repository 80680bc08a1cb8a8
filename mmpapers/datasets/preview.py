"""What contact sheets of generated data sets have in common."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .files import write_atomic
from .toytown import ToytownError
from .toytown.writers import encode_image

EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]  # of a box, whose corners count in binary


def check_suffix(path: Path, who: str) -> None:
    """Refuse a file that is no picture.

    Raises:
        ToytownError: If it ends neither in .png nor in .jpg.
    """
    if path.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise ToytownError(f'{who}: --preview {path} must end in .png or .jpg')


def write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write rows of pictures, RGB uint8 (H, W, 3) of equal height within a row and equal width over rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(np.concatenate([np.concatenate(row, 1) for row in rows], 0), path.suffix))
