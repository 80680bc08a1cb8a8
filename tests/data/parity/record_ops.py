"""Record what a compiled mmcv 2.1.0 answers on seeded boxes and RoIs: ``python record_ops.py``, no mmpapers needed.

Writes ``ops_boxes.npz`` beside this file: the arrays of every call and, as JSON in ``calls``, for each call of
``mmcv._ext`` its arguments (a string names an array) and the names of what it returned or wrote.
"""

import json
import platform
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv import _ext

SEED = 20
arrays, names, calls = {}, {}, []


def store(value) -> str:
    """Keep a tensor, or a list of lists with -1 behind each, and return its name."""
    if isinstance(value, list):
        value = torch.tensor([i for group in value for i in (*group, -1)], dtype=torch.int64)
    array = value.numpy().copy()
    name = names.setdefault((str(array.dtype), array.shape, array.tobytes()), f'a{len(names)}')
    arrays[name] = array
    return name


def record(op: str, written: tuple = (), **kwargs) -> None:
    """Call ``_ext.<op>``; keep what it was given, what it returned and what it wrote to the arguments ``written``."""
    given = {key: store(v) if isinstance(v, torch.Tensor) else v for key, v in kwargs.items()}
    returned = getattr(_ext, op)(**kwargs)
    count = len(returned) if op == 'softnms' else None
    calls.append({'op': op, 'given': given, 'returned': None if returned is None else store(returned),
                  'written': {key: store(kwargs[key][:count]) for key in written}})


def random_boxes(rng: np.random.RandomState, n: int) -> tuple:
    """Boxes of all sizes with distinct scores."""
    corner, size = rng.rand(n, 2) * 100, rng.rand(n, 2) * 60
    boxes = torch.tensor(np.hstack([corner, corner + size]), dtype=torch.float32)
    return boxes, torch.tensor(rng.permutation(n) / max(n, 1) + 1e-3, dtype=torch.float32)


def record_nms(rng: np.random.RandomState) -> None:
    """Sizes, thresholds and offsets; boxes without area, equal boxes, a NaN coordinate."""
    for n in (0, 1, 2, 40, 150):
        boxes, scores = random_boxes(rng, n)
        if n == 40:
            boxes[::5, 2:] = boxes[::5, :2]
            boxes[1::5] = boxes[1]
            boxes[3, 0] = float('nan')
        for offset in (0, 1):
            for threshold in (0.0, 0.4, 0.9):
                record('nms', boxes=boxes, scores=scores, iou_threshold=threshold, offset=offset)
            for method in (0, 1, 2):
                record('softnms', ('dets', ), boxes=boxes, scores=scores, dets=torch.zeros(n, 5), iou_threshold=0.3,
                       sigma=0.5, min_score=0.05, method=method, offset=offset)
        record('nms_match', dets=torch.cat([boxes, scores[:, None]], 1), iou_threshold=0.4)


def record_overlaps(rng: np.random.RandomState) -> None:
    """Both modes, pairwise and aligned, with boxes without area."""
    a, b = random_boxes(rng, 7)[0], random_boxes(rng, 7)[0]
    a[0, 2:] = a[0, :2]
    b[0] = a[0]
    for mode in (0, 1):
        for aligned in (False, True):
            for offset in (0, 1):
                record('bbox_overlaps', ('ious', ), bboxes1=a, bboxes2=b,
                       ious=torch.zeros(7 if aligned else (7, 7)), mode=mode, aligned=aligned, offset=offset)


def record_roi_align(rng: np.random.RandomState) -> None:
    """Random RoIs and ones outside, without area and larger than the map, on maps down to one pixel."""
    for n, c, h, w, dtype in ((2, 2, 13, 17, torch.float32), (1, 1, 1, 1, torch.float32), (1, 2, 20, 9, torch.float64)):
        features = torch.tensor(rng.randn(n, c, h, w), dtype=dtype)
        corner, size = (rng.rand(12, 2) * 1.2 - 0.1) * (w * 4, h * 4), rng.rand(12, 2)**2 * (w * 4, h * 4)
        rois = torch.tensor(np.hstack([rng.randint(0, n, (12, 1)), corner, corner + size]), dtype=dtype)
        rois[0, 1:] = 3  # a point
        rois[1, 1:] = torch.tensor([-100, -90, -50, -60])  # outside
        rois[2, 1:] = torch.tensor([-60, -50, 90, 100])  # around the map
        rois[3, 1:] = torch.tensor([w * 4, h * 4, w * 4 + 2, h * 4 + 2])
        for keep in (rois, rois[:0]):
            for pool_mode in (0, 1):
                for sampling_ratio in (0, 2):
                    for aligned in (False, True):
                        blank = torch.zeros(len(keep), c, 3, 2, dtype=dtype)
                        argmax = [blank.clone() if pool_mode == 0 else blank.new_zeros(0) for _ in 'yx']
                        common = {'rois': keep, 'argmax_y': argmax[0], 'argmax_x': argmax[1], 'aligned_height': 3,
                                  'aligned_width': 2, 'spatial_scale': 0.25, 'sampling_ratio': sampling_ratio,
                                  'pool_mode': pool_mode, 'aligned': aligned}
                        record('roi_align_forward', ('output', 'argmax_y', 'argmax_x'), input=features,
                               output=blank.clone(), **common)
                        grad = torch.tensor(rng.randn(*blank.shape), dtype=dtype)
                        record('roi_align_backward', ('grad_input', ), grad_output=grad,
                               grad_input=torch.zeros_like(features), **common)


if __name__ == '__main__':
    rng = np.random.RandomState(SEED)
    record_nms(rng)
    record_overlaps(rng)
    record_roi_align(rng)
    provenance = (f'github.com/open-mmlab/mmcv v{mmcv.__version__} compiled for the CPU by '
                  f'{_ext.get_compiler_version()}, torch {torch.__version__}, python {platform.python_version()}; '
                  f'command: python tests/data/parity/record_ops.py; seed {SEED}')
    target = Path(__file__).with_name('ops_boxes.npz')
    np.savez_compressed(target, calls=json.dumps(calls), provenance=provenance, **arrays)
    print(f'{target}: {len(calls)} calls, {target.stat().st_size} bytes')
