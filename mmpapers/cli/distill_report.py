"""One HTML page about a distilled student: what pulled at it, and where it agrees with its teacher and where not."""

import argparse
import base64
import copy
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmpapers import compat

from . import console, runtime
from .browse_dataset import COLOURS
from .check import add_config_arguments

_TILE = 260  # width of a picture in pixels
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}table{border-collapse:collapse}
td,th{padding:.25em .9em .25em 0;text-align:right}td:first-child,th:first-child{text-align:left}
.bar{display:inline-block;height:.8em;background:#3b7dd8;vertical-align:middle}.strip{margin:.6em 0 1.2em}
figure{display:inline-block;margin:.3em 8px 0 0}figcaption{color:#666;font-size:.8em}img{border-radius:3px}
.note{color:#666;font-size:.9em}"""


@dataclass
class Look:
    """One image.

    Args:
        name: File name.
        distance: How far the student's features are from the teacher's, relative to the teacher's size.
        pictures: Title to picture (H, W, 3), RGB.
    """

    name: str
    distance: float
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 1 if a model does not run; 2 if config or checkpoint is wrong.
    """
    parser = argparse.ArgumentParser('distill_report', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the distilled run')
    parser.add_argument('--out', default='distill_report.html', help='file to write (default %(default)s)')
    parser.add_argument('--images', type=int, default=32, help='validation images to look at (default 32)')
    parser.add_argument('--worst', type=int, default=6, help='images to show, worst transfer first (default 6)')
    parser.add_argument('--batches', type=int, default=4, help='training batches for the gradient shares (default 4)')
    args = parser.parse_args(argv)
    return runtime.run(lambda: report(args))


def report(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`.

    Raises:
        UserError: If the config distils nothing.
    """
    from mmpapers.cli.train import require_file
    from mmpapers.distill.analysis import load_student
    from mmpapers.distill.overlay import expand
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        expand(cfg)
        if 'student' not in cfg.model:
            raise runtime.UserError(f'{args.config} has no `distill`, so there is nothing to report')
        require_file(args.checkpoint)
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        if model.teacher is None:
            raise runtime.UserError(f'{type(model).__name__} has no teacher to compare with')
        from mmengine.runner.checkpoint import CheckpointLoader
        helpers = load_student(model, CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu'))
        shares = gradients(cfg, model, args.batches)
        looks, agreement, alignment = compare(cfg, model, args.images)
    page = render(args, model, helpers, shares, agreement, alignment, looks[:args.worst])
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(page, 'utf-8')
    for name, (value, share) in shares.items():
        print(f'{name:24} value {value:8.4f}   gradient {share:6.1%}')
    print('\n'.join([*(f'{name:24} {value:.4g}' for name, value in agreement.items()),
                     *(f'CKA {name:20} {value:.3f}' for name, value in alignment.items())]))
    print(f'\nreport {args.out}')
    return 0


def batches(cfg: Config, split: str, size: int, count: int) -> list[dict]:
    """The first samples of a data set, collated."""
    dataset = DATASETS.build(copy.deepcopy(cfg[f'{split}_dataloader'].dataset))
    numbers = np.linspace(0, len(dataset) - 1, min(size * count, len(dataset))).round().astype(int).tolist()
    return [pseudo_collate([dataset[i] for i in numbers[k:k + size]]) for k in range(0, len(numbers), size)]


def gradients(cfg: Config, model: Any, count: int) -> dict[str, tuple[float, float]]:
    """Mean value of every loss term, and its share of the sum of all terms' gradient norms."""
    from mmpapers.distill.analysis import gradient_shares
    model.train()
    size = cfg.train_dataloader.get('batch_size') or 2
    found = [gradient_shares(model, model.data_preprocessor(batch, True))
             for batch in batches(cfg, 'train', size, count)]
    model.eval()
    means = {name: np.mean([terms[name] for terms in found if name in terms], axis=0) for name in found[0]}
    total = sum(norm for _, norm in means.values())
    return {name: (float(value), float(norm / total)) for name, (value, norm) in means.items()}


def compare(cfg: Config, model: Any, count: int) -> tuple[list[Look], dict[str, float], dict[str, float]]:
    """Run both models on validation images.

    Returns:
        A look at each image, worst transfer first; the agreement of predictions; CKA by tapped tensor.
    """
    from mmpapers.distill import analysis
    looks, own, theirs, sizes, features = [], [], [], [], {}
    for batch in batches(cfg, 'val', 1, count):
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        seen = analysis.observe(model, data)
        shown = image_of(batch)
        look = Look(Path(seen.samples[0].metainfo.get('img_path') or '').name, 0., {} if shown is None else
                    {'image': shown})
        distances = []
        for role in seen.teacher:
            for i, (student, teacher) in enumerate(seen.pairs(role)):
                student = student.detach()
                if len(features.setdefault(f'{role} {i}', [])) < 16:
                    features[f'{role} {i}'].append((analysis.rows(student, 512), analysis.rows(teacher, 512)))
                if student.dim() == 4:
                    change = analysis.difference(student, teacher)[0]
                    distances.append(float(change.mean()))
                    if shown is not None:
                        look.pictures[f'{role} {i}: difference'] = heat(change, shown, seen)
        look.distance = float(np.mean(distances)) if distances else 0.
        for name, maps in model.maps(seen).items():
            if shown is not None:
                look.pictures[name] = heat(maps[0], shown, seen, top=1.)
        with torch.no_grad():
            student, teacher = model.val_step(copy.deepcopy(batch))[0], model.teacher.model.val_step(batch)[0]
        own.append(student)
        theirs.append(teacher)
        sizes.append(tuple(student.metainfo.get('ori_shape', (1, 1))[:2]))
        if shown is not None:
            look.pictures.update({'student': predicted(shown, student),
                                  'teacher': predicted(shown, teacher)})
        looks.append(look)
    agreement = {}
    if all('pred_instances' in sample for sample in own):
        agreement = analysis.box_agreement(*([s.pred_instances for s in samples] for samples in (own, theirs)), sizes)
    elif all('pred_sem_seg' in sample for sample in own):
        agreement = analysis.pixel_agreement(*(
            [s.pred_sem_seg.data[0].cpu().numpy() for s in samples] for samples in (own, theirs)))
    alignment = {name: analysis.linear_cka(*(torch.cat(part) for part in zip(*pairs)))
                 for name, pairs in features.items()}
    return sorted(looks, key=lambda look: -look.distance), agreement, alignment


def image_of(batch: dict) -> np.ndarray | None:
    """The image (H, W, 3), RGB, of a collated batch of one; None for point clouds."""
    inputs = batch['inputs']
    if isinstance(inputs, dict):
        return None
    return np.ascontiguousarray(inputs[0].permute(1, 2, 0).numpy()[..., ::-1].clip(0, 255).astype(np.uint8))


def heat(values: torch.Tensor, image: np.ndarray, seen: Any, top: float | None = None) -> np.ndarray:
    """A map (h, w) over the padded input, drawn over the image; red is ``top``, by default its highest value."""
    height, width = seen.inputs.shape[-2:]
    values = values.detach().float().cpu().numpy()
    scaled = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)[:image.shape[0], :image.shape[1]]
    scaled = np.clip(scaled / max(top or float(scaled.max()), 1e-6), 0, 1)
    colours = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def predicted(image: np.ndarray, sample: Any, threshold: float = 0.3) -> np.ndarray:
    """Draw boxes from ``threshold`` on, or classes of pixels."""
    image = image.copy()
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return (0.4 * image + 0.6 * COLOURS[labels % len(COLOURS)]).astype(np.uint8)
    if 'pred_instances' in sample:
        scale = np.array([image.shape[1], image.shape[0]] * 2) / np.array([*sample.ori_shape[1::-1]] * 2)
        boxes = sample.pred_instances[sample.pred_instances.scores >= threshold]
        for box, label in zip(boxes.bboxes.cpu().numpy() * scale, boxes.labels.tolist()):
            left, top, right, bottom = box.round().astype(int).tolist()
            cv2.rectangle(image, (left, top), (right, bottom), COLOURS[label % len(COLOURS)].tolist(), 2)
    return image


def render(args: argparse.Namespace, model: Any, helpers: bool, shares: dict[str, tuple[float, float]],
           agreement: dict[str, float], alignment: dict[str, float], looks: Sequence[Look]) -> str:
    """The page."""
    title = f'{type(model).__name__} &larr; {type(model.teacher.model).__name__}'
    parts = [f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>',
             f'<p class="note">{html.escape(args.config)}, {html.escape(args.checkpoint)}; teacher '
             f'{html.escape(str(model.teacher.checkpoint))}</p>']
    if not helpers:
        parts.append('<p><b>The checkpoint holds no connectors</b>: features pass untrained ones, so differences mean '
                     'little. Give a checkpoint of the run itself.</p>')
    parts.append('<h2>What pulls at the student</h2><p class="note">Weighted value, share of the sum of gradient '
                 f'norms of all terms; {args.batches} training batches.</p><table>'
                 '<tr><th>term<th>value<th>gradient<th>')
    parts += [f'<tr><td>{name}<td>{value:.4f}<td>{share:.1%}<td style="text-align:left"><span class="bar" '
              f'style="width:{share * 300:.0f}px"></span>' for name, (value, share) in shares.items()]
    parts.append('</table><h2>Agreement with the teacher</h2>')
    if agreement:
        what = ('COCO AP of the student with the boxes of the teacher (score 0.3 and more) as truth'
                if 'AP' in agreement else 'share of equal pixels, and mIoU with the classes of the teacher as truth')
        parts.append(f'<p class="note">{what}; {args.images} validation images.</p><table>' + ''.join(
            f'<tr><td>{name}<td>{value:.4g}' for name, value in agreement.items()) + '</table>')
    if alignment:
        parts.append('<p class="note">Linear CKA of what is compared: 0 nothing in common, 1 equal up to rotation and '
                     'scale.</p><table>')
        parts += [f'<tr><td>{name}<td>{value:.3f}<td style="text-align:left"><span class="bar" '
                  f'style="width:{value * 300:.0f}px"></span>' for name, value in alignment.items()]
        parts.append('</table>')
    if looks and looks[0].pictures and not alignment:
        parts.append('<h2>Both models</h2><p class="note">Nothing is compared place by place.</p>')
    elif looks and looks[0].pictures:
        parts.append('<h2>Worst transfer</h2><p class="note">Bright: features of the student (after the connector) are '
                     'far from those of the teacher. Each map is scaled to its own maximum.</p>')
    for look in looks:
        images = ''.join(f'<figure><img width="{_TILE}" src="data:image/png;base64,{_png(picture)}"><figcaption>'
                         f'{html.escape(title)}</figcaption></figure>' for title, picture in look.pictures.items())
        if images:
            distance = f' <span class="note">distance {look.distance:.3f}</span>' if alignment else ''
            parts.append(f'<div class="strip"><b>{html.escape(look.name)}</b>{distance}<br>{images}</div>')
    return '\n'.join(parts)


def _png(picture: np.ndarray) -> str:
    """A picture as base64 text."""
    width = min(_TILE * 2, max(picture.shape[1], _TILE))
    picture = cv2.resize(picture, (width, round(picture.shape[0] * width / picture.shape[1])))
    return base64.b64encode(cv2.imencode('.png', picture[..., ::-1])[1].tobytes()).decode()


if __name__ == '__main__':
    raise SystemExit(main())
