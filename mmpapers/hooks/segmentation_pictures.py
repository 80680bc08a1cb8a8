"""Pictures of a segmentation test: every image, under its own name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmpapers.registry import HOOKS


@HOOKS.register_module()
class SegmentationPicturesHook(Hook):
    """Draw ground truth and prediction of every test image.

    ``tools/test.py --show-dir`` puts it in the place of mmseg's ``SegVisualizationHook``, which draws every 50th batch
    and has no folder of its own.

    Args:
        folder: Where pictures go, below ``<work_dir>/<timestamp>`` if relative; None draws none.
        show: Open a window for each image.
        wait_time: Seconds a window stays.
        backend_args: File backend of the images.
    """

    def __init__(self, folder: str | None = None, show: bool = False, wait_time: float = 0.,
                 backend_args: dict | None = None) -> None:
        self.folder, self.show, self.wait_time, self.backend_args = folder, show, wait_time, backend_args

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
                        ) -> None:
        """Draw a batch."""
        visualizer = Visualizer.get_current_instance()
        for sample in outputs or ():
            image = mmcv.imfrombytes(get(sample.img_path, backend_args=self.backend_args), channel_order='rgb')
            name = Path(sample.img_path).with_suffix('.png').name
            file = Path(runner.log_dir) / self.folder / name if self.folder else None
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            visualizer.add_datasample(name, image, data_sample=sample, show=self.show, wait_time=self.wait_time,
                                      out_file=file and str(file))
