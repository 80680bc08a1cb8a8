"""Record what a compiled mmcv 2.1.0 answers on seeded rotated and 3D boxes: ``python record_ops_boxes3d.py``.

Writes ``ops_boxes3d.npz`` beside this file, in the form that ``record_ops.py`` describes; no mmpapers needed.
"""

import json
import math
import platform
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv import _ext
from record_ops import arrays, calls, record

SEED = 21


def rectangles(rng: np.random.RandomState, n: int) -> torch.Tensor:
    """Rotated rectangles of all shapes that crowd in 20 x 20."""
    boxes = np.hstack([rng.rand(n, 2) * 20, rng.rand(n, 2) * 8 + 0.2, rng.uniform(-7, 7, (n, 1))])
    return torch.tensor(boxes, dtype=torch.float32)


def special() -> torch.Tensor:
    """Equal, nested, touching, crossing, thin, far away and empty rectangles."""
    return torch.tensor([[5, 5, 4, 2, 0], [5, 5, 4, 2, 0], [5, 5, 4, 2, math.pi / 2], [5, 5, 2, 1, 0.3],
                         [9, 5, 4, 2, 0], [5, 7, 4, 2, 0], [5, 5, 2, 4, -math.pi / 2], [5, 5, 40, 0.05, 0.7],
                         [5, 6, 4, 2, math.pi],
                         [1e4, 1e4, 4, 2, 1], [1e4 + 1, 1e4, 4, 2, 1], [5, 5, 0, 2, 0], [5, 5, 0, 0, 0],
                         [5, 5, -4, 2, 0]], dtype=torch.float32)


def corners(boxes: torch.Tensor, rng: np.random.RandomState | None = None) -> torch.Tensor:
    """Corners of rectangles in order, (N, 8); with ``rng`` moved, so that they are rectangles no more."""
    x, y, w, h, angle = boxes.double().numpy().T
    ux, uy, vx, vy = w * np.cos(angle) / 2, w * np.sin(angle) / 2, -h * np.sin(angle) / 2, h * np.cos(angle) / 2
    quads = np.stack([x - ux - vx, y - uy - vy, x + ux - vx, y + uy - vy, x + ux + vx, y + uy + vy, x - ux + vx,
                      y - uy + vy], 1)
    if rng is not None:
        quads += rng.randn(*quads.shape) * 0.8
    return torch.tensor(quads, dtype=torch.float32)


def record_overlaps(rng: np.random.RandomState) -> None:
    """Both modes, pairwise and aligned, and NMS at thresholds from 0 on, of rectangles and quadrilaterals."""
    ours = {'rotated': (rectangles(rng, 24), rectangles(rng, 17), special())}
    ours['quadri'] = (corners(ours['rotated'][0], rng), corners(ours['rotated'][1], rng), corners(special()[:11]))
    for kind, (a, b, c) in ours.items():
        for mode in (0, 1):
            for p, q, aligned in ((a, b, False), (a[:17], b, True), (c, c, False), (a, b[:0], False)):
                record(f'box_iou_{kind}', ('ious', ), boxes1=p, boxes2=q,
                       ious=torch.zeros(len(p) if aligned else len(p) * len(q)), mode_flag=mode, aligned=aligned)
        crowd = rectangles(rng, 150)
        crowd = crowd if kind == 'rotated' else corners(crowd, rng)
        for boxes in (crowd, crowd[:1], crowd[:0]):
            scores = torch.tensor(rng.permutation(len(boxes)), dtype=torch.float32)
            for threshold in (0.0, 0.1, 0.5):
                more = {'labels': torch.zeros(0)} if kind == 'rotated' else {}
                record(f'nms_{kind}', dets=boxes, scores=scores, order=scores.sort(descending=True)[1],
                       dets_sorted=boxes, **more, iou_threshold=threshold, multi_label=0)


def record_points(rng: np.random.RandomState) -> None:
    """Points inside, outside, and on the faces of boxes."""
    boxes = torch.tensor(np.hstack([rng.rand(6, 3) * 4, rng.rand(6, 3) * 4, rng.uniform(-7, 7, (6, 1))]),
                         dtype=torch.float32)
    boxes[0] = torch.tensor([2., 2, 1, 2, 2, 2, 0])
    boxes[1, 3:6] = 0
    grid = torch.tensor(np.stack(np.meshgrid([0.9, 1, 2, 3, 3.1], [1, 2, 3], [0.9, 1, 2, 3]), -1).reshape(-1, 3))
    points = torch.cat([torch.tensor(rng.rand(400, 3) * 6 - 1), grid]).float()
    for keep, cloud in ((boxes, points), (boxes[:0], points), (boxes, points[:0]), (boxes[:1], points[:1])):
        record('points_in_boxes_cpu_forward', ('pts_indices_tensor', ), boxes_tensor=keep, pts_tensor=cloud,
               pts_indices_tensor=torch.zeros(len(keep), len(cloud), dtype=torch.int32))


def record_roi_align(rng: np.random.RandomState) -> None:
    """Rotated RoIs inside, across the border, outside, without area and around the map."""
    for n, c, h, w, dtype in ((2, 2, 9, 12, torch.float32), (1, 1, 1, 1, torch.float32), (1, 2, 7, 5, torch.float64)):
        features = torch.tensor(rng.randn(n, c, h, w), dtype=dtype)
        rois = torch.tensor(np.hstack([rng.randint(0, n, (10, 1)), rng.rand(10, 2) * (w * 4, h * 4),
                                       rng.rand(10, 2)**2 * (w * 4, h * 4), rng.uniform(-4, 4, (10, 1))]), dtype=dtype)
        rois[0, 3:5] = 0
        rois[1, 1:3] = -200
        rois[2, 3:5] = 200
        rois[3, 5] = 0
        for keep in (rois, rois[:0]):
            for ratio, aligned, clockwise in ((0, True, False), (2, True, True), (0, False, True), (2, False, False)):
                common = {'rois': keep, 'pooled_height': 3, 'pooled_width': 2, 'spatial_scale': 0.25,
                          'sampling_ratio': ratio, 'aligned': aligned, 'clockwise': clockwise}
                output = torch.zeros(len(keep), c, 3, 2, dtype=dtype)
                record('roi_align_rotated_forward', ('output', ), input=features, output=output, **common)
                # The compiled function has the names of its tensors in another order than it takes them.
                grad = torch.tensor(rng.randn(*output.shape), dtype=dtype)
                record('roi_align_rotated_backward', ('grad_output', ), rois=grad, grad_input=keep,
                       grad_output=torch.zeros_like(features), **{k: v for k, v in common.items() if k != 'rois'})


if __name__ == '__main__':
    rng = np.random.RandomState(SEED)
    record_overlaps(rng)
    record_points(rng)
    record_roi_align(rng)
    provenance = (f'github.com/open-mmlab/mmcv v{mmcv.__version__} compiled for the CPU by '
                  f'{_ext.get_compiler_version()}, torch {torch.__version__}, python {platform.python_version()}; '
                  f'command: python tests/data/parity/record_ops_boxes3d.py; seed {SEED}')
    target = Path(__file__).with_name('ops_boxes3d.npz')
    np.savez_compressed(target, calls=json.dumps(calls), provenance=provenance, **arrays)
    print(f'{target}: {len(calls)} calls, {target.stat().st_size} bytes')
