"""What a distillation did: gradient shares of its terms, agreement of both models, and where their features differ."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpapers.distill import network, presets
from mmpapers.distill.distiller import HELPERS, Distiller, Seen
from mmpapers.distill.taps import Record


def load_student(model: Distiller, checkpoint: dict) -> bool:
    """Load a checkpoint of a distilled run: the student's weights, and the helpers that travel beside them.

    Args:
        model: Changed in place.
        checkpoint: Content of the file.

    Returns:
        Whether helpers (connectors) were in it; without them features are compared through untrained connectors.
    """
    model.load_state_dict(checkpoint.get('state_dict', checkpoint), strict=True)
    saved = checkpoint.get('message_hub', {}).get('runtime_info', {}).get(HELPERS)
    if saved:
        model.helpers.load_state_dict(saved)
    return bool(saved) or not model.helpers.state_dict()


def gradient_shares(model: Distiller, data: dict) -> dict[str, tuple[float, float]]:
    """How hard each loss term pulls at the student.

    Args:
        model: In training mode.
        data: A preprocessed batch.

    Returns:
        Term to its weighted value and the Euclidean norm of its gradient over all of the student's parameters.
    """
    losses = model.loss(**data)
    parameters = [parameter for name, parameter in model.named_parameters()
                  if parameter.requires_grad and not name.startswith(f'{HELPERS}.')]
    found = {}
    for name, value in losses.items():
        term = sum(part.mean() for part in value) if isinstance(value, list | tuple) else value.mean()
        if 'loss' not in name or not term.requires_grad:
            continue
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        square = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
        found[name] = (float(term.detach()), square ** .5)
    return found


def observe(model: Distiller, data: dict) -> Seen:
    """Both models' tapped tensors for a batch, without any loss.

    Scores of box heads are left out, because the models sample different boxes, and outputs of DETRs, because the
    queries of two models do not correspond.

    Args:
        model: In eval mode.
        data: A preprocessed batch.
    """
    inputs, samples = data['inputs'], data['data_samples']
    own, theirs = model.taps_of['student'], model.taps_of['teacher']
    with torch.no_grad():
        with model.student_taps.recording(model) as record:
            network.run(model, inputs, samples, model.student_taps.auxiliary)
        seen = Record() if model.teacher is None else model.teacher(inputs, samples, model.data_preprocessor)
    models = [model] if model.teacher is None else [model, model.teacher.model]
    queries = any(presets.family(each) == 'query' for each in models)
    roles = [role for role in own if role in theirs and not own[role].startswith('roi_head.')
             and not (role == 'outputs' and queries)]
    return Seen(model.roles_of(record, {role: own[role] for role in roles}),
                model.roles_of(seen, {role: theirs[role] for role in roles}), model.helpers['connectors'], samples,
                inputs, {}, None, dict(student=record, teacher=seen))


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same rows.

    Kornblith et al., ICML 2019, arXiv 1905.00414, equation 4 in the form for features.

    Args:
        first: (N, C1).
        second: (N, C2).

    Returns:
        0 (nothing in common) to 1 (equal up to rotation and one scale).
    """
    x, y = (rows.double() - rows.double().mean(0) for rows in (first, second))
    shared = (x.T @ y).square().sum()
    return float(shared / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-12))


def rows(maps: Tensor, most: int = 4096) -> Tensor:
    """Positions of maps (B, C, H, W) as rows (N, C), at most ``most`` of them, evenly spread."""
    flat = maps.movedim(1, -1).flatten(0, -2) if maps.dim() > 2 else maps
    return flat[torch.linspace(0, len(flat) - 1, min(len(flat), most)).long()]


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Root mean squared difference over channels, (B, H, W), relative to the teacher's own root mean square."""
    scale = teacher.square().mean().sqrt().clamp(min=1e-6)
    return (student - teacher).square().mean(1).sqrt() / scale


def box_agreement(student: Sequence[Any], teacher: Sequence[Any], sizes: Sequence[tuple[int, int]],
                  threshold: float = 0.3) -> dict[str, float]:
    """COCO AP of the student's boxes with the teacher's confident boxes in the place of the truth.

    Args:
        student: ``pred_instances`` of the student, an image each.
        teacher: ``pred_instances`` of the teacher.
        sizes: (height, width) of the images.
        threshold: Score from which a box of the teacher counts.

    Returns:
        ``AP``, ``AP50`` and ``boxes``, the number of boxes that count; the APs are NaN without any.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    truth, found = [], []
    for i, (own, theirs) in enumerate(zip(student, teacher)):
        sure = theirs[theirs.scores >= threshold]
        for box, label in zip(*(sure[name].cpu().numpy() for name in ('bboxes', 'labels'))):
            width, height = (box[2:] - box[:2]).tolist()
            truth.append(dict(id=len(truth) + 1, image_id=i, category_id=int(label), iscrowd=0, area=width * height,
                              bbox=[float(box[0]), float(box[1]), width, height]))
        for box, label, score in zip(*(own[name].cpu().numpy() for name in ('bboxes', 'labels', 'scores'))):
            found.append(dict(image_id=i, category_id=int(label), score=float(score), bbox=[
                float(box[0]), float(box[1]), *(box[2:] - box[:2]).tolist()]))
    if not truth or not found:
        value = 0. if truth else float('nan')
        return dict(AP=value, AP50=value, boxes=float(len(truth)))
    classes = sorted({entry['category_id'] for entry in (*truth, *found)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(images=[dict(id=i, height=h, width=w) for i, (h, w) in enumerate(sizes)], annotations=truth,
                            categories=[dict(id=label, name=str(label)) for label in classes])
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(AP=float(evaluation.stats[0]), AP50=float(evaluation.stats[1]), boxes=float(len(truth)))


def pixel_agreement(student: Sequence[np.ndarray], teacher: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of equal pixels, and mean IoU of the student's classes with the teacher's in the place of the truth.

    Args:
        student: Label maps (H, W).
        teacher: Label maps (H, W).
    """
    own, theirs = (np.concatenate([np.ravel(labels) for labels in maps]) for maps in (student, teacher))
    ious = [((own == label) & (theirs == label)).sum() / ((own == label) | (theirs == label)).sum()
            for label in np.unique(theirs)]
    return dict(pixels=float((own == theirs).mean()), mIoU=float(np.mean(ious)))
