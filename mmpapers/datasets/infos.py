"""mmdet3d's info files: reading them without running what a pickle may hide, and what can be wrong with them."""

import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_PLAIN = {
    **dict.fromkeys(('numpy', 'numpy.core.multiarray', 'numpy._core.multiarray', 'numpy.core.numeric',
                     'numpy._core.numeric'), ('ndarray', 'dtype', '_reconstruct', 'scalar', '_frombuffer')),
    'collections': ('OrderedDict', 'defaultdict'), 'builtins': ('dict', 'list', 'set', 'tuple', 'slice', 'complex'),
    '_codecs': ('encode',)}


class InfoError(ValueError):
    """An info file cannot be read; the message says why."""


class _Plain(pickle.Unpickler):
    """Builds plain Python and numpy values only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the harmless names.

        Raises:
            UnpicklingError: For every other name.
        """
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'it holds a {module}.{name}, which reading could run')


@dataclass(frozen=True)
class Fault:
    """Something wrong with one frame.

    Args:
        kind: ``'file'``, ``'calibration'``, ``'box'``, ``'volume'`` or ``'label'``.
        frame: Position in ``data_list``.
        text: What is wrong.
    """

    kind: str
    frame: int
    text: str


def load_infos(path: Path, limit: int = 2 ** 30) -> dict:
    """Read an info file of mmdet3d 1.1 or newer.

    Args:
        path: Pickle with the keys ``metainfo`` and ``data_list``.
        limit: Largest size in bytes that is read.

    Returns:
        Its content.

    Raises:
        InfoError: If it is too large, damaged, holds other objects than plain and numpy ones, or has another form.
    """
    size = path.stat().st_size
    if size > limit:
        raise InfoError(f'{path} is {size >> 20} MiB')
    try:
        content = _Plain(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise InfoError(f'{path} cannot be read as a pickle of plain values: {error}') from error
    if isinstance(content, list):
        raise InfoError(f'{path} is a list, as mmdet3d before 1.1 wrote it; write it anew, e.g. with '
                        'tools/dataset_converters/kitti.py')
    if not isinstance(content, dict) or not isinstance(content.get('data_list'), list) \
            or not isinstance(content.get('metainfo'), dict):
        raise InfoError(f'{path} has no `metainfo` and `data_list`, so it is no info file of mmdet3d')
    return content


def faults(frames: Sequence[dict], labels: int, cameras: Sequence[str] = (), lidar: bool = True) -> Iterator[Fault]:
    """Find what would stop or spoil a training.

    Args:
        frames: ``data_list`` of an info file.
        labels: Number of classes that labels may name.
        cameras: Cameras whose calibration is needed; ``('*',)`` for all that a frame has.
        lidar: Whether point files are needed.
    """
    for index, frame in enumerate(frames):
        points = frame.get('lidar_points') or {}
        if lidar and not isinstance(points.get('lidar_path'), str):
            yield Fault('file', index, 'lidar_points.lidar_path is missing')
        images = frame.get('images') or {}
        needed = [name for name, image in images.items() if isinstance(image, dict) and 'img_path' in image] \
            if tuple(cameras) == ('*',) else cameras
        for camera in needed:
            yield from _calibration(index, camera, images.get(camera) or {})
        for number, instance in enumerate(frame.get('instances') or ()):
            yield from _instance(index, number, instance, labels)


def _calibration(index: int, camera: str, image: dict) -> Iterator[Fault]:
    """A camera needs its projection, and its place relative to the points."""
    for keys, shapes in ((('cam2img', 'depth2img'), ((3, 3), (3, 4), (4, 4))),
                         (('lidar2cam', 'depth2img'), ((3, 3), (4, 4)))):
        matrix = next((image[key] for key in keys if image.get(key) is not None), None)
        if matrix is None:
            yield Fault('calibration', index, f'images.{camera}.{keys[0]} is missing')
        elif np.shape(matrix) not in shapes or not np.isfinite(np.asarray(matrix, float)).all():
            yield Fault('calibration', index, f'images.{camera}.{keys[0]} is no finite matrix of '
                        f'{" or ".join(map(str, shapes))}, its shape is {np.shape(matrix)}')


def _instance(index: int, number: int, instance: dict, labels: int) -> Iterator[Fault]:
    """An object needs a label and a box with a volume."""
    label = instance.get('bbox_label_3d', instance.get('bbox_label'))
    if not isinstance(label, int | np.integer) or not -1 <= label < labels:
        yield Fault('label', index, f'object {number} has the label {label!r}; labels are -1 (left out) to '
                    f'{labels - 1}')
    elif label >= 0:
        box = np.asarray(instance.get('bbox_3d', ()), float).reshape(-1)
        if len(box) not in (6, 7, 9) or not np.isfinite(box[:7]).all():
            yield Fault('box', index, f'object {number} has the box {instance.get("bbox_3d")}, not 7 finite numbers')
        elif (box[3:6] <= 0).any():
            yield Fault('volume', index, f'object {number} has a box without volume (sizes '
                        f'{", ".join(f"{side:g}" for side in box[3:6])})')
