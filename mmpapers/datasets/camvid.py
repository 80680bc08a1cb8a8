"""CamVid in SegNet's form: split files that list image and label, labels 0..10 and 11 for void."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmpapers.registry import DATASETS

VOID = 11


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid, 11 classes at 480x360, read from ``{train,val,test}.txt`` with a line ``image label`` per frame.

    The label files write void as 11, a value outside the 11 classes. It is mapped to 255 when a label is loaded, so
    that losses and metrics with the usual ``ignore_index=255`` leave it out. A subset of the classes can be asked for
    with ``metainfo=dict(classes=...)``; the other classes then become 255 too.

    Args:
        ann_file: Split file, relative to ``data_root``. Its paths are relative to ``data_root`` as well, so images may
            be PNG (as published) or JPEG.
        kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: If the split file is absent.
        ValueError: If a line of it does not hold two paths.
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'signsymbol', 'fence', 'car', 'pedestrian',
                 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self, ann_file: str, **kwargs) -> None:
        super().__init__(ann_file=ann_file, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: tuple[str, ...] | None = None) -> dict[int, int]:
        """Map label values to class indices; void goes to 255, whatever the classes are."""
        return {**(super().get_label_map(new_classes) or {}), VOID: 255}

    def load_data_list(self) -> list[dict]:
        """Read the split file."""
        split = Path(self.ann_file)
        if not split.is_file():
            raise FileNotFoundError(
                f'CamVidDataset: ann_file {split} does not exist. Set data_root to the folder that '
                'tools/dataset_converters/camvid.py wrote')
        root = Path(self.data_root or split.parent)
        frames = []
        for number, line in enumerate(split.read_text('utf-8').splitlines(), 1):
            paths = line.split()
            if not paths:
                continue
            if len(paths) != 2:
                raise ValueError(f'{split}, line {number}: expected "image label", found {line!r}')
            frames.append(dict(
                img_path=str(root / paths[0]),
                seg_map_path=str(root / paths[1]),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[]))
        return frames
