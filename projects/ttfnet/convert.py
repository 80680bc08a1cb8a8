"""Turn checkpoints of the official TTFNet (mmdetection 1.x) into checkpoints of ``mmpapers.TTFNet``."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmpapers.compat import checkpoint as checkpoints

# Official name -> ours; the upsampling path moves from the head to the neck. Class channels keep their order: labels of
# mmdetection 1.x count from 1, and label k used channel k - 1.
RULES = (
    (r'^bbox_head\.deconv_layers\.(\d+)\.0\.conv_offset_mask\.', r'neck.stages.\1.0.conv_offset.'),
    (r'^bbox_head\.deconv_layers\.', 'neck.stages.'),
    (r'^bbox_head\.shortcut_layers\.(\d+)\.layers\.', r'neck.shortcuts.\1.'),
    (r'^bbox_head\.hm\.', 'bbox_head.heatmap.'),
    (r'^bbox_head\.wh\.', 'bbox_head.wh.'),
    (r'^backbone\.stem\.', 'backbone.conv1.'),  # this and the next two: DarknetV3
    (r'^backbone\.layer(\d+)\.0\.(conv|bn)\.', r'backbone.conv_res_block\1.conv.\2.'),
    (r'^backbone\.layer(\d+)\.(\d+)\.body\.([01])\.',
     lambda m: f'backbone.conv_res_block{m[1]}.res{int(m[2]) - 1}.conv{int(m[3]) + 1}.'),
    (r'^(backbone\.(?:conv1|bn1|layer\d+)\.)', r'\1'),  # ResNet
)


def convert_name(name: str) -> str:
    """Return our name of an official parameter.

    Raises:
        KeyError: If no rule knows the name.
    """
    for pattern, ours in RULES:
        new, found = re.subn(pattern, ours, name)
        if found:
            return new
    raise KeyError(f'{name!r} is no parameter of an official TTFNet with a ResNet or DarknetV3 backbone; is this '
                   'checkpoint from ZJULearning/ttfnet?')


def convert(checkpoint: Mapping) -> dict:
    """Convert a checkpoint.

    Args:
        checkpoint: What ``torch.load`` returned: ``state_dict`` and ``meta``, or a bare state dict.

    Returns:
        ``state_dict`` and ``meta`` with ``dataset_meta``; loads into ``mmpapers.TTFNet`` with ``strict=True``.
    """
    state: Mapping[str, Tensor] = checkpoint.get('state_dict', checkpoint)
    classes = checkpoint.get('meta', {}).get('CLASSES') if 'state_dict' in checkpoint else None
    converted = {convert_name(name.removeprefix('module.')): value for name, value in state.items()}
    meta = {'converted_from': 'https://github.com/ZJULearning/ttfnet'}
    if classes:
        meta['dataset_meta'] = {'classes': tuple(classes)}
    return {'state_dict': converted, 'meta': meta}


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file; see ``--help``. Returns 0, or 2 if it cannot be read or is no official TTFNet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='official file, e.g. ttfnet18_1x-fe6884.pth')
    parser.add_argument('out', type=Path, help='checkpoint to write, e.g. ttfnet18_1x.pth')
    args = parser.parse_args(argv)
    try:
        result = convert(checkpoints.read(args.source, map_location='cpu'))
    except (checkpoints.CheckpointError, KeyError) as error:
        parser.exit(2, f'{parser.prog}: {error.args[0]}\n')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, args.out)
    print(f'Wrote {args.out}: {len(result["state_dict"])} tensors. Evaluate it with '
          '--cfg-options model.bbox_head.legacy_plus_one=True')
    if any('conv_res_block' in name for name in result['state_dict']):
        print('Its Darknet-53 was trained with ImageNet\'s mean and std; add model.data_preprocessor.mean='
              '[123.675,116.28,103.53] model.data_preprocessor.std=[58.395,57.12,57.375]')
    return 0
