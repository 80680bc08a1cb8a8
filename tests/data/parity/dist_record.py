"""Record values and gradients of the official DIST losses into ``dist.npz``.

Usage: python tests/data/parity/dist_record.py IMAGE_CLASSIFICATION_SOTA DIST_KD MASKD

The arguments are checkouts of github.com/hunto/image_classification_sota, hunto/DIST_KD and hunto/MasKD. The three
files are run as they are; of MasKD's, only the registry that it imports is replaced.
"""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch

SEED = 2205


class Registry:
    """Stands in for mmrazor 0.x's registry."""
    register_module = staticmethod(lambda: lambda cls: cls)


def load(path: Path, package: str) -> type:
    """Import an official file and return its loss."""
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = []
    sys.modules[f'{package}.builder'] = types.ModuleType('builder')
    sys.modules[f'{package}.builder'].LOSSES = Registry
    sys.modules[f'{package}.losses'] = types.ModuleType('losses')
    sys.modules[f'{package}.losses'].__path__ = []
    spec = importlib.util.spec_from_file_location(f'{package}.losses.dist_kd', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DIST


def main() -> None:
    classification, segmentation, detection = map(Path, sys.argv[1:4])
    torch.manual_seed(SEED)
    rows = 2 * torch.randn(2, 9, 7)
    maps = 2 * torch.randn(2, 2, 6, 5, 4)
    loss = {
        'rows': (load(classification / 'lib/models/losses/dist_kd.py', 'a')(beta=1., gamma=1., tau=1.), rows),
        'rows_tau4': (load(classification / 'lib/models/losses/dist_kd.py', 'b')(beta=2., gamma=.5, tau=4.), rows),
        'maps': (load(segmentation / 'segmentation/losses/dist_kd.py', 'c')(beta=1., gamma=1.), maps),
        'maps_sigmoid': (load(detection / 'mmrazor/mmrazor/models/losses/dist_kd.py', 'd')(
            beta=1., gamma=2., use_sigmoid=True, loss_weight=.5), maps),
    }
    out = {'input_rows': rows.numpy(), 'input_maps': maps.numpy()}
    for name, (criterion, values) in loss.items():
        student = values[0].clone().requires_grad_()
        result = criterion(student, values[1])
        result.backward()
        out[name], out[f'{name}_gradient'] = result.detach().numpy(), student.grad.numpy()
    commits = [subprocess.check_output(['git', '-C', str(path), 'rev-parse', 'HEAD'], text=True).strip()
               for path in (classification, segmentation, detection)]
    out['provenance'] = np.array(
        f'github.com/hunto/image_classification_sota {commits[0]}, hunto/DIST_KD {commits[1]}, hunto/MasKD '
        f'{commits[2]}; dist_record.py, seed {SEED}, torch {torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('dist.npz'), **out)


if __name__ == '__main__':
    main()
