"""mmseg's weighted cross entropy with ignored pixels."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.losses.cross_entropy_loss import CrossEntropyLoss

from mmpapers.compat import class_weights

pytestmark = pytest.mark.core
WEIGHT = [0.5, 2.0, 1.0]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.randint(0, 3, (2, 4, 5))
    label[:, 0] = 255
    return torch.randn(2, 3, 4, 5, requires_grad=True), label


def test_average_over_what_is_not_ignored_is_torchs_own() -> None:
    class_weights.install()
    pred, label = inputs()
    loss = CrossEntropyLoss(class_weight=WEIGHT, avg_non_ignore=True)(pred, label, ignore_index=255)
    torch.testing.assert_close(loss, F.cross_entropy(pred, label, torch.tensor(WEIGHT), ignore_index=255))
    loss.backward()
    assert pred.grad.isfinite().all() and not pred.grad[:, :, 0].any()


def test_average_over_all_counts_ignored_pixels_as_one() -> None:
    pred, label = inputs()
    loss = CrossEntropyLoss(class_weight=WEIGHT)(pred, label, ignore_index=255)
    total = F.cross_entropy(pred, label, torch.tensor(WEIGHT), ignore_index=255, reduction='sum')
    count = torch.tensor(WEIGHT)[label[:, 1:]].sum() + 10
    torch.testing.assert_close(loss, total / count)


def test_without_ignored_pixels_the_stock_function_is_unchanged() -> None:
    from mmseg.models.losses import cross_entropy_loss as module
    class_weights.install()
    patched = module.cross_entropy
    class_weights.install()
    assert module.cross_entropy is patched
    pred, label = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4))
    arguments = {'class_weight': torch.tensor(WEIGHT), 'ignore_index': 255}
    torch.testing.assert_close(patched(pred, label, **arguments), patched.__wrapped__(pred, label, **arguments))
    torch.testing.assert_close(patched(pred, label), patched.__wrapped__(pred, label))


def test_module_is_patched_when_it_is_imported_later() -> None:
    code = ('import sys; from mmpapers import compat; from mmpapers.compat import class_weights; compat.setup(); '
            'class_weights.install(); assert "mmseg" not in sys.modules; '
            'from mmseg.models.losses import cross_entropy_loss as m; assert hasattr(m.cross_entropy, "__wrapped__")')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
