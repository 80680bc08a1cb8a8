"""Record masks, masked features, diversity and losses of the official MasKD into ``maskd.npz``.

Usage: python tests/data/parity/maskd_record.py CHECKOUT_OF_hunto/MasKD

The three official files are run from the checkout as they are; two packages that one of them imports for reading
checkpoints and for its registry are replaced, and the segmentation loss is given a file of its own random tokens.
"""

import importlib.util
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

SEED = 14589
STUBS = ('mmcv', 'mmcv.runner', 'mmcv.runner.checkpoint', 'fork', 'fork.builder', 'fork.losses')


class Registry:
    """Stands in for mmrazor 0.x's registry."""
    register_module = staticmethod(lambda: lambda cls: cls)


def load(checkout: Path) -> tuple[types.ModuleType, ...]:
    """Import the mask module of mask learning, the loss for detectors and the loss for segmentors."""
    for name in STUBS:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules['mmcv.runner.checkpoint']._load_checkpoint = torch.load
    sys.modules['fork.builder'].LOSSES = Registry
    modules = []
    for name, path in (('fork.losses.learn', 'mmdetection/maskd.py'),
                       ('fork.losses.detection', 'mmrazor/mmrazor/models/losses/maskd.py'),
                       ('fork.losses.segmentation', 'segmentation/losses/maskd.py')):
        spec = importlib.util.spec_from_file_location(name, checkout / path)
        modules.append(importlib.util.module_from_spec(spec))
        sys.modules[name] = modules[-1]
        spec.loader.exec_module(modules[-1])
    return tuple(modules)


def main(checkout: Path) -> None:
    """Run the official code on seeded input."""
    learning, detection, segmentation = load(checkout)
    torch.manual_seed(SEED)
    out = {}
    shapes = [(2, 16, 9, 13), (2, 16, 5, 7)]
    teachers, students = ([torch.randn(shape) * 2 for shape in shapes] for _ in range(2))
    out |= {f'{who}.{i}': value for who, values in (('teacher', teachers), ('student', students))
            for i, value in enumerate(values)}

    for weighted in (True, False):
        module = learning.MaskModule(16, num_tokens=6, weight_mask=weighted)
        module.mask_token.data.normal_(0, 0.3)
        masked, diversity = module(teachers[0])
        name = 'weighted' if weighted else 'plain'
        out |= {f'learn.{name}.state.mask_modules.0.{key}': value for key, value in module.state_dict().items()}
        out |= {f'learn.{name}.masks': module.forward_mask(teachers[0]), f'learn.{name}.masked': masked,
                f'learn.{name}.diversity': diversity}
        if weighted:
            out['learn.weighted.weights'] = module.forward_prob(teachers[0]).flatten(1)

        loss = detection.MasKDLoss([16, 16], num_tokens=6, weight_mask=weighted, custom_mask_warmup=1, loss_weight=7.)
        for module in loss.mask_modules:
            module.mask_token.data.normal_(0, 0.3)
        out |= {f'loss.{name}.state.{key}': value for key, value in loss.state_dict().items()}
        values, inputs = [], [student.clone().requires_grad_() for student in students]
        for step in range(2):
            values.append(loss(inputs, teachers))
            grads = torch.autograd.grad(values[-1], inputs)
            out |= {f'loss.{name}.gradient.{step}.{i}': grad for i, grad in enumerate(grads)}
        out[f'loss.{name}.values'] = torch.stack(values)

    tokens = segmentation.MaskModule(16, num_tokens=8)
    tokens.mask_token.data.normal_(0, 0.3)
    with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        torch.save(tokens.state_dict(), file.name)
        loss = segmentation.MasKDLoss(16, num_tokens=8, pretrained=file.name)
    out |= {'segmentation.state.mask_token': tokens.mask_token,
            'segmentation.value': loss(students[0], teachers[0])}

    commit = subprocess.run(['git', '-C', checkout, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    provenance = (f'https://github.com/hunto/MasKD at {commit}: mmdetection/maskd.py, '
                  'mmrazor/mmrazor/models/losses/maskd.py and segmentation/losses/maskd.py, run by '
                  f'tests/data/parity/maskd_record.py, seed {SEED}, torch {torch.__version__}')
    arrays = {key: value.detach().numpy() for key, value in out.items()}
    np.savez_compressed(Path(__file__).with_name('maskd.npz'), provenance=provenance, **arrays)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
