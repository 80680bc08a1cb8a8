"""Models of mmdet and mmseg that stop with an error on ordinary input, mended."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.ssd_head import SSDHead
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmseg.models.losses import cross_entropy_loss

from mmpapers.compat import model_bugs

pytestmark = pytest.mark.core
WEIGHT = [0.5, 2.0, 1.0]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.randint(0, 3, (2, 4, 5))
    label[:, 0] = 255
    return torch.randn(2, 3, 4, 5, requires_grad=True), label


def test_average_over_what_is_not_ignored_is_torchs_own() -> None:
    model_bugs.install()
    pred, label = inputs()
    loss = cross_entropy_loss.CrossEntropyLoss(class_weight=WEIGHT, avg_non_ignore=True)(pred, label, ignore_index=255)
    torch.testing.assert_close(loss, F.cross_entropy(pred, label, torch.tensor(WEIGHT), ignore_index=255))
    loss.backward()
    assert pred.grad.isfinite().all() and not pred.grad[:, :, 0].any()


def test_average_over_all_counts_ignored_pixels_as_one() -> None:
    pred, label = inputs()
    loss = cross_entropy_loss.CrossEntropyLoss(class_weight=WEIGHT)(pred, label, ignore_index=255)
    total = F.cross_entropy(pred, label, torch.tensor(WEIGHT), ignore_index=255, reduction='sum')
    torch.testing.assert_close(loss, total / (torch.tensor(WEIGHT)[label[:, 1:]].sum() + 10))


def test_without_ignored_pixels_the_stock_function_is_unchanged() -> None:
    model_bugs.install()
    mended = cross_entropy_loss.cross_entropy
    model_bugs.install()
    assert cross_entropy_loss.cross_entropy is mended
    pred, label = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4))
    arguments = {'class_weight': torch.tensor(WEIGHT), 'ignore_index': 255}
    torch.testing.assert_close(mended(pred, label, **arguments), mended.__wrapped__(pred, label, **arguments))
    torch.testing.assert_close(mended(pred, label), mended.__wrapped__(pred, label))


def test_ssd_predicts() -> None:
    head = SSDHead(num_classes=2, in_channels=(4,), feat_channels=4, anchor_generator={
        'type': 'SSDAnchorGenerator', 'scale_major': False, 'input_size': 32, 'basesize_ratio_range': (0.2, 0.9),
        'strides': [8], 'ratios': [[2]], 'min_sizes': [8], 'max_sizes': [16]},
        bbox_coder={'type': 'DeltaXYWHBBoxCoder'}, test_cfg=ConfigDict(
            nms_pre=10, nms={'type': 'nms', 'iou_threshold': 0.5}, score_thr=0.0, max_per_img=5))
    scores, boxes = head([torch.randn(1, 4, 4, 4)])
    result = head.predict_by_feat(scores, boxes, batch_img_metas=[{'img_shape': (32, 32), 'scale_factor': (1, 1)}])[0]
    assert isinstance(result, InstanceData) and len(result) == 5


@pytest.mark.parametrize('box', [[40.0, 2.0, 50.0, 9.0], [-30.0, 2.0, -20.0, 9.0], [2.0, -9.0, 5.0, -4.0]])
def test_mask_of_a_box_outside_the_image_is_empty(box: list[float]) -> None:
    model_bugs.install()
    pasted, where = fcn_mask_head._do_paste_mask(torch.ones(1, 1, 4, 4), torch.tensor([box]), 16, 20, skip_empty=True)
    assert where == () and pasted.shape == (1, 16, 20) and not pasted.any()


def test_mask_of_a_box_inside_is_pasted_as_before() -> None:
    mended = fcn_mask_head._do_paste_mask
    arguments = torch.rand(1, 1, 4, 4), torch.tensor([[3.0, 2.0, 30.0, 9.0]]), 16, 20
    for skip_empty in (True, False):
        ours, stock = (f(*arguments, skip_empty=skip_empty) for f in (mended, mended.__wrapped__))
        assert torch.equal(ours[0], stock[0]) and ours[1] == stock[1]


def test_modules_are_mended_when_they_are_imported_later() -> None:
    code = ('import sys; from mmpapers.compat import model_bugs; model_bugs.install(); '
            'assert "mmseg" not in sys.modules; '
            'from mmseg.models.losses import cross_entropy_loss as m; assert hasattr(m.cross_entropy, "__wrapped__")')
    done = subprocess.run([sys.executable, '-c', f'from mmpapers import compat; compat.setup(); {code}'],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
