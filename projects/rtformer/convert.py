"""Read RTFormer weights of PaddleSeg (``.pdparams``) without Paddle and without running code of the file.

Official code: PaddlePaddle/PaddleSeg, paddleseg/models/rtformer.py (commit d7975e7c). Licence of both: Apache-2.0.
Differences: names only; BN's ``num_batches_tracked``, which Paddle does not have, becomes 0.
"""

import _codecs
import argparse
import collections
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_ALLOWED = {
    ('_codecs', 'encode'): _codecs.encode,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}
for _core in ('core', '_core'):  # numpy 1 and 2 write different module names
    _ALLOWED[f'numpy.{_core}.multiarray', '_reconstruct'] = np.zeros(1).__reduce__()[0]
    _ALLOWED[f'numpy.{_core}.numeric', '_frombuffer'] = np.zeros(1).__reduce_ex__(5)[0]

_RULES = [(re.compile(pattern), new) for pattern, new in (
    (r'\._mean$', '.running_mean'),
    (r'\._variance$', '.running_var'),
    # units of norm, activation and convolution: numbered in Paddle, named in mmcv
    (r'\b(compression3?|process\d|scale0|spp\.shortcut)\.0\.', r'\1.bn.'),
    (r'\b(compression3?|process\d|scale0|spp\.shortcut)\.2\.', r'\1.conv.'),
    (r'\b(scale[1-4])\.1\.', r'\1.1.bn.'),
    (r'\b(scale[1-4])\.3\.', r'\1.1.conv.'),
    (r'^(layer(?:[123]\.\d+|3_\.0))\.conv(\d)\.', r'\1.conv\2.conv.'),
    (r'^(layer(?:[123]\.\d+|3_\.0))\.bn(\d)\.', r'\1.conv\2.bn.'),
    (r'\.down\.0\.', '.injection.0.bn.'),
    (r'\.down\.2\.', '.injection.0.conv.'),
    (r'\.down\.3\.', '.injection.1.bn.'),
    (r'\.down\.5\.', '.injection.1.conv.'),
    # modules
    (r'^conv1\.', 'stem.'),
    (r'^layer3_\.0\.', 'layer3_high.'),
    (r'^compression3\.', 'compression.'),
    (r'\.attn_shortcut_l\.', '.shortcut.'),
    (r'\.attn_l\.k$', '.low_attention.key'),
    (r'\.attn_l\.v$', '.low_attention.value'),
    (r'\.attn_l\.', '.low_attention.'),
    (r'\.attn_h\.', '.high_attention.'),
    (r'\.cross_kv\.', '.high_attention.kv.'),
    (r'\.mlp_l\.', '.low_mlp.'),
    (r'\.mlp_h\.', '.high_mlp.'),
    (r'\.scale(\d)\.', r'.scales.\1.'),
    (r'\.process(\d)\.', lambda match: f'.processes.{int(match[1]) - 1}.'),
    # heads; all else is the backbone
    (r'^(seghead(?:_extra)?)\.bn1\.', r'\1.conv.bn.'),
    (r'^(seghead(?:_extra)?)\.conv1\.', r'\1.conv.conv.'),
    (r'^(seghead(?:_extra)?)\.bn2\.', r'\1.norm.'),
    (r'^(seghead(?:_extra)?)\.conv2\.', r'\1.conv_seg.'),
    (r'^seghead\.', 'decode_head.'),
    (r'^seghead_extra\.', 'auxiliary_head.'),
    (r'^(?!decode_head\.|auxiliary_head\.)', 'backbone.'),
)]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle containers and numpy arrays, nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, and weights need numpy arrays only')
        return _ALLOWED[module, name]


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """Read a state dict that ``paddle.save`` wrote.

    Args:
        path: A ``.pdparams`` file.

    Returns:
        Arrays by Paddle's parameter names, without Paddle's own name table.

    Raises:
        ValueError: If the file is no such state dict, is cut short, or asks for anything that could run code.
    """
    try:
        with open(path, 'rb') as file:
            loaded = _ArrayUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not a .pdparams state dict or is damaged: {error}') from error
    items = loaded.items() if isinstance(loaded, dict) else ()
    state = {name: value for name, value in items if not name.endswith('@@')}
    wrong = [name for name, value in state.items() if not isinstance(value, np.ndarray)]
    if wrong or not state:
        raise ValueError(f'{path} holds no state dict of arrays: ' + (
            f'{wrong[0]} is a {type(state[wrong[0]]).__name__}' if wrong else f'found a {type(loaded).__name__}'))
    return state


def rename(name: str) -> str:
    """Return our name of an official parameter or buffer, for mmseg's ``EncoderDecoder``."""
    for pattern, new in _RULES:
        name = pattern.sub(new, name)
    return name


@dataclass
class Report:
    """What became of the weights.

    Attributes:
        used: Official name -> our name.
        unused: Official names that the model has no place for.
        missing: Names of the model that the file does not fill.
        misshapen: Official name -> sentence with both shapes.
    """

    used: dict[str, str]
    unused: list[str]
    missing: list[str]
    misshapen: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether every weight of the file found its place and every place was filled."""
        return not (self.unused or self.missing or self.misshapen)

    def __str__(self) -> str:
        lines = [f'used {len(self.used)}, unused {len(self.unused)}, missing {len(self.missing)}, '
                 f'of another shape {len(self.misshapen)}']
        lines += [f'  unused     {name}' for name in self.unused]
        lines += [f'  missing    {name}' for name in self.missing]
        lines += [f'  shape      {name}: {sentence}' for name, sentence in self.misshapen.items()]
        return '\n'.join(lines)


def convert(official: Mapping[str, np.ndarray], model: nn.Module) -> tuple[dict[str, Tensor], Report]:
    """Translate official weights for a model.

    Args:
        official: Arrays by official names, from :func:`read_pdparams`.
        model: mmseg's ``EncoderDecoder`` with RTFormer; read for names and shapes, not changed.

    Returns:
        State dict with our names, holding what fits, and the report.
    """
    places = model.state_dict()
    state, used, unused, misshapen = {}, {}, [], {}
    for name, value in official.items():
        ours = rename(name)
        if ours not in places:
            unused.append(name)
        elif places[ours].shape != value.shape:
            misshapen[name] = f'{list(value.shape)} in the file, {list(places[ours].shape)} in {ours}'
        else:
            state[ours], used[name] = torch.from_numpy(value.copy()).to(places[ours].dtype), ours
    for name, place in places.items():
        if name.endswith('.num_batches_tracked') and name.replace('num_batches_tracked', 'running_var') in state:
            state[name] = torch.zeros_like(place)
    filled = {*state, *(rename(name) for name in misshapen)}
    return state, Report(used, unused, [n for n in places if n not in filled and 'num_batches' not in n], misshapen)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file; see ``--help``. Returns 0, or 1 if weights were left over or missing without ``--partial``."""
    parser = argparse.ArgumentParser(description='Convert RTFormer weights of PaddleSeg to a checkpoint of mmpapers.')
    parser.add_argument('pdparams', help='official file, e.g. model.pdparams')
    parser.add_argument('config', help='config of the same model, e.g. rtformer-slim_cityscapes.py')
    parser.add_argument('out', help='checkpoint to write, e.g. rtformer-slim.pth')
    parser.add_argument('--partial', action='store_true', help='write what fits, e.g. a pre-trained backbone')
    args = parser.parse_args(argv)

    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from mmpapers import compat
    compat.setup()
    try:
        official, cfg = read_pdparams(args.pdparams), Config.fromfile(args.config)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
    init_default_scope('mmseg')
    state, report = convert(official, MODELS.build(cfg.model))
    print(report)
    if not report.used or not (report.complete or args.partial):
        print('Nothing written: the file and the config do not describe the same model. --partial writes what fits.')
        return 1
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=state, meta=dict(source=str(args.pdparams), config=cfg.filename)), args.out)
    print(f'Wrote {args.out}')
    return 0
