"""Record values of published losses of the baseline distillers into ``distill_baselines.npz``.

Usage: python tests/data/parity/distill_baselines_record.py MMRAZOR TORCHDISTILLER

The arguments are checkouts of github.com/open-mmlab/mmrazor and irfanICMLL/TorchDistiller. Files of mmrazor are run as
they are, with its registry replaced; of TorchDistiller the two classes of channel-wise distillation are.
"""

import ast
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

SEED = 2011


class Registry:
    """Stands in for mmrazor's registry."""
    register_module = staticmethod(lambda: lambda cls: cls)


def classes(path: Path, *names: str) -> list[type]:
    """Run a file, or only the named classes of it, and return these."""
    sys.modules['mmrazor'] = types.ModuleType('mmrazor')
    sys.modules['mmrazor.registry'] = types.ModuleType('mmrazor.registry')
    sys.modules['mmrazor.registry'].MODELS = Registry
    tree = ast.parse(path.read_text('utf-8'))
    if path.name == 'criterion.py':  # it imports CUDA extensions
        tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    scope = {'torch': torch, 'nn': nn}
    exec(compile(tree, str(path), 'exec'), scope)
    return [scope[name] for name in names]


def main() -> None:
    razor, torch_distiller = map(Path, sys.argv[1:3])
    losses = razor / 'mmrazor/models/losses'
    torch.manual_seed(SEED)
    maps, rows = 2 * torch.randn(2, 2, 3, 5, 4), 2 * torch.randn(2, 9, 7)
    out = {'input_maps': maps.numpy(), 'input_rows': rows.numpy()}
    (cwd,), (pkd,), (kl,) = (classes(losses / file, name) for file, name in (
        ('cwd.py', 'ChannelWiseDivergence'), ('pkd_loss.py', 'PKDLoss'), ('kl_divergence.py', 'KLDivergence')))
    _, criterion = classes(torch_distiller / 'SemSeg-distill/utils/criterion.py', 'ChannelNorm', 'CriterionCWD')
    results = {
        'cwd_mmrazor_tau1': cwd(tau=1)(*maps), 'cwd_mmrazor_tau4': cwd(tau=4)(*maps),
        'cwd_torchdistiller_tau4': criterion('channel', 'kl', 4.)(*maps), 'pkd': pkd()(*maps),
        'kl_tau1': kl(tau=1)(*rows), 'kl_tau4': kl(tau=4)(*rows),
    }
    out |= {name: value.numpy() for name, value in results.items()}
    commits = [subprocess.check_output(['git', '-C', str(path), 'rev-parse', 'HEAD'], text=True).strip()
               for path in (razor, torch_distiller)]
    out['provenance'] = np.array(
        f'github.com/open-mmlab/mmrazor {commits[0]}, irfanICMLL/TorchDistiller {commits[1]}; '
        f'distill_baselines_record.py, seed {SEED}, torch {torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('distill_baselines.npz'), **out)


if __name__ == '__main__':
    main()
