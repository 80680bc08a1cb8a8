"""Stock mmdet configs, thinned, train a step and predict on the ops of mmpapers."""

from collections.abc import Callable
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict

from mmpapers.ops import boundary

pytestmark = pytest.mark.det

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'


def resnet(model: ConfigDict) -> None:
    """Thin a ResNet-FPN detector to 8 channels and heads to 16."""
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    for head in (model.get('rpn_head'), model.get('bbox_head')):
        if head:
            head.update(in_channels=16, feat_channels=16)
    if 'roi_head' in model:
        model.roi_head.bbox_roi_extractor.out_channels = 16
        boxes = model.roi_head.bbox_head
        for head in boxes if isinstance(boxes, list) else [boxes]:
            head.update(in_channels=16, fc_out_channels=16)
        if 'mask_head' in model.roi_head:
            model.roi_head.mask_roi_extractor.out_channels = 16
            model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)


def grouped(model: ConfigDict) -> None:
    """A thin FCOS: its group norms need 32 channels."""
    resnet(model)
    model.neck.out_channels = 32
    model.test_cfg.score_thr = 0
    model.bbox_head.update(in_channels=32, feat_channels=32)


def hourglass(model: ConfigDict) -> None:
    """A thin CornerNet for a small map, whose untrained corners pair up all the same."""
    model.backbone.update(num_stacks=2, downsample_times=3, stage_channels=[16] * 4, stage_blocks=[1] * 4,
                          feat_channel=16)
    model.bbox_head.update(in_channels=16)
    model.test_cfg.update(corner_topk=200, distance_threshold=100)


CASES = {
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': resnet,
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': grouped,
    'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py': hourglass,
}


def watch(patch: pytest.MonkeyPatch) -> set[str]:
    """Send all calls of ``mmcv._ext`` to our ops and collect their names."""
    called, original = set(), boundary.implementation

    def implementation(name: str) -> Callable | None:
        called.add(name)
        return original(name)

    patch.setattr(boundary, 'implementation', implementation)
    patch.setattr(boundary.ExtFacade, '_has_compiled', lambda *args: False)
    return called


def train_and_predict(name: str, thin: Callable[[ConfigDict], None], size: int = 64) -> set[str]:
    """Train one step on two images and predict on them.

    Args:
        name: Config of mmdet.
        thin: Shrinks its model in place.
        size: Side of the images.

    Returns:
        Names of the functions of ``mmcv._ext`` that were called.
    """
    register_all_modules()
    model = Config.fromfile(CONFIGS / name).model
    thin(model)
    detector = MODELS.build(model)
    batch = demo_mm_inputs(2, [[3, size, size]] * 2, num_items=[3, 2], num_classes=80, with_mask='roi_head' in model)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        called = watch(patch)
        losses = detector(**detector.data_preprocessor(batch, True), mode='loss')
        total, _ = detector.parse_losses(losses)
        total.backward()
        optimizer.step()
        detector.eval()
        with torch.no_grad():
            results = detector(**detector.data_preprocessor(batch, False), mode='predict')
    assert total.isfinite() and total > 0
    missing = [key for key, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)
    for result in results:
        assert result.pred_instances.bboxes.shape == (len(result.pred_instances.scores), 4)
        assert not result.pred_instances.bboxes.isnan().any()
    return called


@pytest.mark.parametrize('name', CASES)
def test_stock_config_trains_and_predicts(name: str) -> None:
    called = train_and_predict(name, CASES[name])
    if 'mask_rcnn' in name:
        assert called >= {'nms', 'roi_align_forward', 'roi_align_backward'}
    elif 'fcos' in name:
        assert called >= {'nms'}
    else:
        assert called >= {'softnms'}
