"""A folder of rooms, in two forms: ``scannet`` and ``sunrgbd``, each as mmdet3d expects it under ``data/``."""

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..files import write_atomic
from ..toytown import ToytownError
from ..toytown.draw import Draw
from ..toytown.generate import Plan
from ..toytown.labels import SPLITS
from ..toytown.writers import encode_image
from . import VERSION
from .capture import scan_room, shoot
from .room import sample_room
from .writers import (
    PER_SPLIT,
    align_matrix,
    infos,
    scannet_info,
    scannet_masks,
    scannet_points,
    sunrgbd_info,
    sunrgbd_points,
)

_PICTURES = 'sunrgbd/sunrgbd_trainval/image'


@dataclass(frozen=True)
class RoomsPlan(Plan):
    """Rooms to generate.

    Args:
        train: Number of training rooms.
        val: Number of validation rooms.
        test: Number of test rooms.
        seed: Seed of the data set.
        size: Width and height of SUN RGB-D's pictures in pixels.
        points: Points of each cloud.
    """

    program: ClassVar[str] = 'rooms'
    contents: ClassVar[tuple[str, ...]] = ('scannet', 'sunrgbd')

    train: int = 600
    size: tuple[int, int] = (320, 240)
    points: int = 10000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1000 <= self.points <= 200_000:
            raise ToytownError(f'rooms: --points {self.points} must lie in 1000 to 200000')
        if max(self.train, self.val, self.test) > PER_SPLIT:
            raise ToytownError(f'rooms: a split holds at most {PER_SPLIT} rooms')

    def parameters(self) -> dict:
        """The plan and the generator's version, as the manifest holds them."""
        return {**super().parameters(), 'version': VERSION}

    def folders(self) -> list[str]:
        """Folders that rooms are written to."""
        return ['scannet/points', 'scannet/instance_mask', 'scannet/semantic_mask', 'sunrgbd/points', _PICTURES]

    def files(self, split: str, index: int) -> list[str]:
        """Files of one room."""
        number = SPLITS.index(split) * PER_SPLIT + index
        scene, view = f'scene{number:05d}_00', f'{number + 1:06d}'
        return [*(f'scannet/{kind}/{scene}.bin' for kind in ('points', 'instance_mask', 'semantic_mask')),
                f'sunrgbd/points/{view}.bin', f'{_PICTURES}/{view}.jpg']

    def make(self, folder: Path, split: str, index: int) -> dict:
        """Write the files of one room; return its record."""
        room = sample_room(self.seed, split, index)
        draw = Draw(*room.key, 13)
        shift = draw.uniform(-4, 4), draw.uniform(-4, 4), draw.uniform(-0.1, 0.1)
        align = align_matrix(draw.uniform(-3.1, 3.1), shift)
        cloud, shot = scan_room(room, self.points), shoot(room, self.size, self.points)
        arrays = [scannet_points(cloud, align), *scannet_masks(room, cloud), sunrgbd_points(shot)]
        data = [array.tobytes() for array in arrays]
        entries = dict(scannet=scannet_info(room, cloud, align), sunrgbd=sunrgbd_info(room, shot))
        digest = hashlib.sha256(b''.join(data) + json.dumps(entries, sort_keys=True).encode())
        for name, content in zip(self.files(split, index), [*data, encode_image(shot.image, '.jpg')]):
            write_atomic(folder / name, content)
        return dict(entries, sha256=digest.hexdigest())

    def joined(self, split: str, records: list[dict]) -> dict[str, bytes]:
        """The info files of a split."""
        return {f'{kind}/{kind}_infos_{split}.pkl':
                pickle.dumps(infos(kind, [record[kind] for record in records]), protocol=4)
                for kind in ('scannet', 'sunrgbd')}

    def count(self, records: list[dict]) -> dict[str, int]:
        """What the manifest says of a split."""
        return {'rooms': len(records), 'scan boxes': sum(len(record['scannet']['instances']) for record in records),
                'view boxes': sum(len(record['sunrgbd']['instances']) for record in records)}
