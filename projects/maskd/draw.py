"""Pictures of masks: one sheet an image, a row a level, a column a token, red where the mask is open.

    python -m mmpapers.projects.maskd.draw CONFIG [MASKS] [--out FOLDER] [--images 4]

CONFIG is that of the first stage (``model = dict(type='mmpapers.MaskLearner', ...)``) or one that distils with MasKD;
MASKS is a file of masks or a checkpoint of the first stage.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import network

from .learner import MaskLearner

_TILE = 220  # longer side of a tile in pixels
_TEXT = 16


def tile(image: np.ndarray, mask: np.ndarray | None, text: str) -> np.ndarray:
    """One image with a mask over it and a line of text above.

    Args:
        image: (H, W, 3), uint8, BGR.
        mask: (H, W) in [0, 1]: blue is 0, red is 1. None leaves the image as it is.
        text: The line.
    """
    if mask is not None:
        colours = cv2.applyColorMap((mask * 255).round().astype(np.uint8), cv2.COLORMAP_JET)
        image = cv2.addWeighted(colours, 0.5, image, 0.5, 0)
    head = np.full((_TEXT, image.shape[1], 3), 255, np.uint8)
    cv2.putText(head, text, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([head, image])


def draw(image: np.ndarray, levels: Sequence[tuple[Tensor, Tensor | None]], padded: tuple[int, int]) -> np.ndarray:
    """Draw all masks of an image.

    Args:
        image: (H, W, 3), uint8, BGR, as the network sees it, without padding.
        levels: Masks (T, h, w) and weights (T,) or None, of each level.
        padded: Height and width of the network's input.

    Returns:
        The sheet (H', W', 3), uint8, BGR. Above each mask stand its level, token, mean and weight.
    """
    scale = _TILE / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    small, rows = cv2.resize(image, size, interpolation=cv2.INTER_AREA), []
    for level, (masks, weights) in enumerate(levels):
        large = F.interpolate(masks[None].float(), size=padded, mode='bilinear', align_corners=False)[0]
        row = [tile(small, None, f'level {level}')]
        for token, mask in enumerate(large[:, :image.shape[0], :image.shape[1]].cpu().numpy()):
            text = f'token {token}  mean {mask.mean():.2f}'
            text += '' if weights is None else f'  weight {weights[token]:.2f}'
            row.append(tile(small, cv2.resize(mask, size, interpolation=cv2.INTER_AREA), text))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def sheet(learner: MaskLearner, batch: dict[str, Any], folder: str | Path, images: int = 4) -> list[Path]:
    """Write a sheet for the first images of a batch.

    Args:
        learner: Model with the masks.
        batch: Batch as the data loader gives it; only images of three channels are drawn.
        folder: Where to write.
        images: At most so many.

    Returns:
        The files.
    """
    raw = batch['inputs']
    if isinstance(raw, dict) or len(raw[0]) != 3:
        return []
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for i, (image, sample) in enumerate(zip(raw[:images], batch['data_samples'])):
        data = learner.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
        with torch.no_grad(), learner.masking() as seen:
            network.run(learner.teacher.model, data['inputs'], data['data_samples'])
        levels = [(masks[0], None if weights is None else weights[0]) for masks, weights in seen]
        picture = draw(image.permute(1, 2, 0).cpu().numpy().astype(np.uint8), levels, tuple(data['inputs'].shape[-2:]))
        files.append(Path(folder) / f'{i}.jpg')
        cv2.imwrite(str(files[-1]), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the masks of a config's teacher on images of its validation set.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        The exit code.
    """
    from mmpapers.cli import console, runtime
    parser = argparse.ArgumentParser(prog='python -m mmpapers.projects.maskd.draw', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the first stage, or of a student that is distilled with MasKD')
    parser.add_argument('masks', nargs='?', help='file of masks (default: what the config says)')
    parser.add_argument('--out', default='masks', help='folder of the pictures (default: masks)')
    parser.add_argument('--images', type=int, default=4, help='how many images (default: 4)')
    parser.add_argument('--cfg-options', nargs='+', action=runtime.ConfigOptions, metavar='KEY=VALUE',
                        help='change settings of the config')
    args = parser.parse_args(argv)
    with console.quiet_stack():
        return runtime.run(lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    """Build the first stage and draw."""
    from mmpapers import compat
    from mmpapers.cli import runtime

    from .maskd import first_stage
    compat.setup()
    cfg = runtime.read_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    learner = MODELS.build(first_stage(cfg, args.masks)).eval()
    loader = Runner.build_dataloader(cfg.val_dataloader | dict(batch_size=args.images, num_workers=0,
                                                               persistent_workers=False), seed=0)
    for file in sheet(learner, next(iter(loader)), args.out, args.images):
        print(file)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
