"""RoI delivery, the student's side: remember the boxes that its box head was given while it computed its loss."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mmpapers.distill.errors import DistillError


def extractor_of(model: nn.Module, stage: int = 0) -> nn.Module:
    """The RoI extractor of a two-stage detector's box head.

    Raises:
        DistillError: If the model has none.
    """
    extractor = getattr(getattr(model, 'roi_head', None), 'bbox_roi_extractor', None)
    if extractor is None:
        raise DistillError(f'{type(model).__name__} has no roi_head.bbox_roi_extractor, so no boxes can be handed to '
                           'the teacher; taps inside roi_head need a two-stage student')
    return extractor[stage] if isinstance(extractor, nn.ModuleList) else extractor


@contextlib.contextmanager
def sampled_boxes(model: nn.Module, stage: int = 0) -> Iterator[list[Tensor]]:
    """Collect the boxes that the box head of ``model`` is run on while the block runs.

    Yields:
        A list that gets one tensor (N, 5) a call: image index, x1, y1, x2, y2 in pixels of the network's input.
    """
    extractor, found = extractor_of(model, stage), []
    before, forward = extractor.__dict__.get('forward'), extractor.forward

    @functools.wraps(forward)
    def noted(feats: Any, rois: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found.append(rois.detach())
        return forward(feats, rois, *args, **kwargs)

    extractor.forward = noted
    try:
        yield found
    finally:
        extractor.__dict__.pop('forward', None)
        if before is not None:
            extractor.forward = before
