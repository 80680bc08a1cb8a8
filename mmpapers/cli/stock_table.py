"""The page of stock configs for people: a section for each toolbox."""

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

HEAD = (
    '# Stock configs without a compiler',
    'One config of each family of the toolboxes, tried on CPU with mmcv-lite and the ops of mmpapers: a training step '
    'and a prediction. What does not run says why in the last column. A family is a folder of model configs in the '
    'toolbox; one config stands for it, or one for each kind of op that it has.',
    'The model is built as configured, with fresh weights instead of pretrained ones and BN instead of SyncBN. *Train '
    'step*: two samples, finite loss, finite gradients. *Predict*: one sample. Accuracy is not looked at. Images are '
    '{size} noise with rectangles (larger where the layers ask for it: {sizes}). Times are of one thread of a busy '
    'machine. Folders of data sets and schedules are left out ({skipped}).',
    '`pip install lap motmetrics` adds ByteTrack, OC-SORT and SORT. mmpretrain needs a torchvision that was built for '
    'the installed torch.',
    'Made by `python tools/analysis_tools/stock_configs.py`.')
DISTRIBUTIONS = {'mmdet': 'mmdet', 'mmseg': 'mmsegmentation', 'mmdet3d': 'mmdet3d'}
NOTES = {
    'mmdet': 'Seconds are for building, training and predicting.',
    'mmseg': 'Seconds are for building, training and predicting.',
    'mmdet3d': "Points are those of a scanned street (23 thousand in view of KITTI's camera, 27 thousand around "
               "nuScenes' car) or of a room (as many as the config samples), with eight objects. Seconds of the "
               'processor are for the training step, forward and backward. Memory is the most that the process held '
               'until then, of which the libraries take {base} GB. TR3D is not in the wheel of mmdet3d (and needs '
               'MinkowskiEngine, as FCAF3D does).'}


def write_table(results: Mapping[str, dict], path: Path, size: tuple[int, int], sizes: Mapping[str, tuple[int, int]],
                skipped: Iterable[str]) -> None:
    """Write the page; sections of toolboxes that the results do not name are kept as they are.

    Args:
        results: Rows of :func:`mmpapers.cli.stock_configs.run_family` by key, e.g. ``mmdet/atss/atss_r50_fpn_1x_coco``.
        path: Markdown file.
        size: Usual height and width of images.
        sizes: Those of other configs, by the name of the config.
        skipped: Folders that hold no models of their own.
    """
    exceptions = ', '.join(f'{stem.partition("_")[0]} {width}x{height}' for stem, (height, width) in sizes.items())
    head = '\n\n'.join(HEAD).format(size=f'{size[1]}x{size[0]}', sizes=exceptions, skipped=', '.join(sorted(skipped)))
    sections = [head + '\n']
    old = path.read_text('utf-8') if path.is_file() else ''
    for toolbox in NOTES:
        rows = {key: row for key, row in results.items() if key.startswith(f'{toolbox}/')}
        kept = re.search(rf'^## {toolbox}\n.*?(?=^## |\Z)', old, re.S | re.M)
        if rows:
            sections.append(_section(toolbox, rows))
        elif kept:
            sections.append(kept[0].rstrip() + '\n')
    path.write_text('\n'.join(sections), 'utf-8')


def _section(toolbox: str, rows: Mapping[str, dict]) -> str:
    """Heading, what runs, and the table."""
    whole = [key for key, row in rows.items() if 'no' not in (row['train'], row['predict'])]
    families, working = (len({key.rpartition('/')[0] for key in keys}) for keys in (rows, whole))
    versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('torch', 'mmengine', 'mmcv-lite',
                                                                         DISTRIBUTIONS[toolbox]))
    space = toolbox == 'mmdet3d'
    base = min((row['base'] for row in rows.values() if row.get('base')), default=None)
    head = ['family', 'config', 'train step', 'predict', 'seconds', *['GB'] * space, 'reason if not']
    lines = [f'## {toolbox}', '', f'{len(whole)} of {len(rows)} configs, from {working} of {families} families, run '
             f'({versions}). {NOTES[toolbox].format(base=base)}', '', f'| {" | ".join(head)} |',
             '|---' * len(head) + '|']
    for key in sorted(rows):
        row = rows[key]
        numbers = [_number(row.get('step')), _number(row.get('memory'))] if space else [f'{row["seconds"]:.0f}']
        cells = (*key.split('/')[1:], row['train'], row['predict'], *numbers, row['reason'].replace('|', '/'))
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'
