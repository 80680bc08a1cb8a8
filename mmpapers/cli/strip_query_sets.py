"""Turn a checkpoint of a DETR with further query sets (H-DETR, Group DETR) into one of the plain base detector."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope

from mmpapers import compat
from mmpapers.compat import checkpoint as checkpoints
from mmpapers.layers.query_sets import TRAINING_ONLY

from . import console, runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 1 if the checkpoint cannot be read; 2 if it does not fill the plain detector.
    """
    parser = argparse.ArgumentParser('strip_query_sets', description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of the run')
    parser.add_argument('out', type=Path, help='checkpoint to write: weights and meta, no optimizer')
    parser.add_argument('--plain', metavar='CONFIG',
                        help='config of the plain detector, to see that every weight fits (strict=True)')
    args = parser.parse_args(argv)
    return runtime.run(lambda: strip(args))


def strip(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`.

    Raises:
        UserError: If the result does not fill the plain detector.
        CheckpointError: If the file cannot be read.
    """
    compat.setup()
    content = checkpoints.read(args.checkpoint, map_location='cpu')
    state = content.get('state_dict', content)
    plain = checkpoints.renamed(state, lambda name: None if name.startswith(TRAINING_ONLY) else name)
    if args.plain:
        with console.quiet_stack():
            cfg = runtime.read_config(args.plain)
            init_default_scope(cfg.get('default_scope') or 'mmengine')
            model = MODELS.build(cfg.model)
        try:
            model.load_state_dict(plain, strict=True)
        except RuntimeError as error:
            raise runtime.UserError(f'{args.checkpoint} is no checkpoint of {args.plain}: {error}') from error
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=plain, meta=content.get('meta', {}) if 'state_dict' in content else {}), args.out)
    print(f'{args.out}: {len(plain)} tensors; {len(state) - len(plain)} of further query sets left out'
          + (f'. All fit {args.plain}' if args.plain else ''))
    return 0
