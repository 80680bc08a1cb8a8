"""Values of PaddleSeg's network on weights seeded by name, recorded by tests/data/parity/rtformer_record.py."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

import mmpapers
from mmpapers.projects.rtformer.convert import convert, rename

pytestmark = pytest.mark.seg
REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]
PARITY = REPOSITORY / 'tests/data/parity'
_spec = importlib.util.spec_from_file_location('rtformer_record', PARITY / 'rtformer_record.py')
recorder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recorder)


def _close(ours: Tensor, recorded: np.ndarray, tolerance: float) -> None:
    """Check the largest difference, relative to the largest value."""
    recorded = torch.from_numpy(recorded).double()
    difference = (ours.detach().double().flatten() - recorded).abs().max() / recorded.abs().max()
    assert difference <= tolerance, f'relative difference {difference:.1e}'


@pytest.mark.parametrize('name', ['slim', 'base'])
def test_official_values(name: str) -> None:
    recorded = np.load(PARITY / 'rtformer.npz')
    names = json.loads(str(recorded['names']))[name]
    cfg = Config.fromfile(REPOSITORY / f'projects/rtformer/configs/rtformer-{name}_cityscapes.py')
    cfg.merge_from_dict({'model.backbone.drop_path_rate': 0., 'model.backbone.norm_cfg.momentum': 0.9,
                         'model.decode_head.norm_cfg.momentum': 0.9, 'model.auxiliary_head.norm_cfg.momentum': 0.9})
    init_default_scope('mmseg')
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    state, report = convert({n: recorder.weight(n, tuple(shape)) for n, shape in names['shapes'].items()}, model)
    assert report.complete, str(report)
    model.load_state_dict(state, strict=True)
    images, labels, picked = (torch.from_numpy(x) for x in recorder.batch())

    def logits(head: torch.nn.Module) -> Tensor:
        return F.interpolate(head(model.extract_feat(images)), recorder.SIZE, mode='bilinear')

    model.eval()
    with torch.no_grad():
        _close(logits(model.decode_head).flatten()[picked], recorded[f'{name}_predict'], 1e-5)

    model.train()
    features = model.extract_feat(images)
    outputs = [F.interpolate(head(features), recorder.SIZE, mode='bilinear')
               for head in (model.decode_head, model.auxiliary_head)]
    # batch normalisation of the 3 x 4 maps at 1/32 amplifies rounding
    _close(outputs[0].flatten()[picked], recorded[f'{name}_main'], 5e-5)
    _close(outputs[1].flatten()[picked], recorded[f'{name}_auxiliary'], 5e-5)
    losses = [factor * F.cross_entropy(x, labels, ignore_index=255) for factor, x in zip((1, 0.4), outputs)]
    _close(torch.stack(losses), recorded[f'{name}_losses'], 1e-5)

    sum(losses).backward()
    parameters = dict(model.named_parameters())
    gradients = torch.stack([parameters[rename(n)].grad.norm() for n in names['gradients']])
    torch.testing.assert_close(gradients, torch.from_numpy(recorded[f'{name}_gradients']), rtol=1e-2, atol=1e-6)
    # Paddle keeps the biased variance of a batch, torch the unbiased one, so only the means can agree
    state = model.state_dict()
    means = [state[rename(n)].mean() for n in names['shapes'] if n.endswith('._mean')]
    _close(torch.stack(means), recorded[f'{name}_running_means'], 1e-5)


def test_provenance() -> None:
    provenance = json.loads(str(np.load(PARITY / 'rtformer.npz')['provenance']))
    assert provenance['repository'] == 'PaddlePaddle/PaddleSeg'
    assert provenance['commit'].startswith('d7975e7c') and provenance['paddlepaddle'].startswith('3.')
