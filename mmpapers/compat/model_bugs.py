"""Shim: models of mmdet 3.3.0 and mmseg 1.2.2 that stop with an error on ordinary input.

Why:
    1. mmseg's ``cross_entropy`` looks up the class weight of every label for its average, the ignored 255 too: PIDNet,
       DDRNet and other Cityscapes configs with ``class_weight`` cannot be trained on real labels.
    2. mmdet's ``SSDHead`` has no ``loss_cls``, which prediction asks for: SSD cannot predict.
    3. mmdet's ``_do_paste_mask`` fails on CPU for a box that lies outside the image, which heads without clipping
       (QueryInst) predict while they learn.
Upstream: 1 mmsegmentation#3734, #3831; 2 mmdetection#11063, #11305, #11780, PR#11524; 3 not reported.
May go when the oldest supported release has them mended.

Each module is mended when it is imported; nothing is imported early.
"""

from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from mmpapers.compat.mending import mend, wrap


def install() -> None:
    """Mend what is imported already, and the rest when it is imported; a second call does nothing."""
    mend(MENDERS)


def _average_without_ignored(stock: Callable) -> Callable:
    """Ignored pixels count 0 in the average with ``avg_non_ignore``, and 1 without, as in the unweighted loss."""

    def cross_entropy(pred: Tensor, label: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None,
                      reduction: str = 'mean', avg_factor: float | Tensor | None = None, ignore_index: int = -100,
                      avg_non_ignore: bool = False) -> Tensor:
        if avg_factor is None and reduction == 'mean' and class_weight is not None:
            ignored = label == ignore_index
            weights = class_weight[label.masked_fill(ignored, 0)]
            avg_factor = weights.masked_fill(ignored, 0 if avg_non_ignore else 1).sum()
        return stock(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)

    return cross_entropy


def _paste_outside(stock: Callable) -> Callable:
    """A box outside the image is pasted as on other devices: the whole image is sampled, and is empty."""

    def paste(masks: Tensor, boxes: Tensor, img_h: int, img_w: int, skip_empty: bool = True) -> tuple:
        low, high = boxes.min(0)[0][:2].floor() - 1, boxes.max(0)[0][2:].ceil() + 1
        meets = low[0].clamp(0) < high[0].clamp(max=img_w) and low[1].clamp(0) < high[1].clamp(max=img_h)
        return stock(masks, boxes, img_h, img_w, skip_empty=skip_empty and bool(meets))

    return paste


def _mend_ssd(module: ModuleType) -> None:
    if not hasattr(module.SSDHead, 'loss_cls'):
        module.SSDHead.loss_cls = None


MENDERS = {
    'mmseg.models.losses.cross_entropy_loss': lambda module: wrap(module, 'cross_entropy', _average_without_ignored),
    'mmdet.models.dense_heads.ssd_head': _mend_ssd,
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head': lambda module: wrap(module, '_do_paste_mask', _paste_outside),
}
