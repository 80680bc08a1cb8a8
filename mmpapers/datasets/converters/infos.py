"""mmdet3d's infos written as JSON, with the files that they name, to the pickle that its data sets read.

JSON can be read, compared and mended by hand, and reading it runs nothing. The form is that of mmdet3d 1.1 and newer
(``metainfo``, ``data_list``); paths are relative to the folder or to its sub-folder ``points`` or ``image``; null in a
list of numbers, e.g. an unknown velocity, becomes NaN.
"""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import place, write_atomic
from ..infos import faults
from ..points import PointFileError, read_points
from . import ConversionError, run

_LABELS = 10 ** 6  # where the infos name no categories, their number is the data set class's business


def convert(source: Path, out: Path) -> dict[str, str]:
    """Convert one info file; points and images are linked, or copied, at the paths they have.

    Args:
        source: Folder with ``infos.json``.
        out: Receives ``infos.pkl`` and the files.

    Returns:
        A line that counts frames, objects and points.

    Raises:
        ConversionError: If the file is missing, no JSON or of another form, names a missing or damaged point file, or
            holds a box without volume, an unknown label or an incomplete calibration.
    """
    path = source / 'infos.json'
    try:
        content = json.loads(path.read_text('utf-8'))
    except FileNotFoundError:
        raise ConversionError(f'{path} is missing; name the folder that holds it') from None
    except ValueError as error:
        raise ConversionError(f'{path} is damaged ({error}); copy the file again') from error
    if not isinstance(content, dict) or not isinstance(content.get('data_list'), list):
        raise ConversionError(f'{path} has no data_list, so it holds no infos of mmdet3d')
    categories = content.setdefault('metainfo', {}).get('categories') or {}
    frames = content['data_list'] = _numbers(content['data_list'])
    fault = next(faults(frames, max(categories.values(), default=_LABELS - 1) + 1, ('*',)), None)
    if fault:
        raise ConversionError(f'{path}, frame {fault.frame}: {fault.text}')
    total, files = 0, []
    for index, frame in enumerate(frames):
        points = frame['lidar_points']
        file = _find(source, points['lidar_path'], 'points')
        try:
            total += len(read_points(file, int(points.get('num_pts_feats') or 0) or 4))
        except PointFileError as error:
            raise ConversionError(f'frame {index}: {error}') from error
        files += [file, *(_find(source, image['img_path'], 'image') for image in (frame.get('images') or {}).values()
                          if isinstance(image, dict) and 'img_path' in image)]
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        place(file, out / file.relative_to(source))
    write_atomic(out / 'infos.pkl', pickle.dumps(content, protocol=4))
    return {'infos': f'{len(frames)} frames, {sum(len(f.get("instances") or ()) for f in frames)} objects, '
                     f'{total} points'}


def _numbers(value: Any) -> Any:
    """Read null within a list of numbers as NaN."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        lacking = any(item is None for item in value) and all(item is None or isinstance(item, int | float)
                                                              for item in value)
        return [float('nan') if item is None and lacking else _numbers(item) for item in value]
    return value


def _find(source: Path, name: str, folder: str) -> Path:
    """A file named by the infos."""
    for path in (source / name, source / folder / name):
        if path.is_file():
            return path
    raise ConversionError(f'{source / name} is named in infos.json but missing; copy the files again')


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(convert, "Convert mmdet3d's infos from JSON to the pickle that its data sets read (infos.pkl), with the "
               'files that they name.', 'folder with infos.json', 'data/infos', argv)
