"""Record what mmdet3d's own KITTI evaluation says of seeded detections; needs mmdet3d 1.4.0, no GPU.

    NUMBA_ENABLE_CUDASIM=1 python tests/data/parity/kitti_eval_record.py

numba's CUDA simulator runs mmdet3d's kernel of rotated overlaps (``rotate_iou.py``) line by line on the CPU.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np

SEED, FRAMES = 20, 48
CLASSES = ('Car', 'Pedestrian', 'Cyclist', 'Van', 'Person_sitting', 'Truck', 'DontCare')
SIZES = np.array([(3.9, 1.5, 1.6), (0.8, 1.75, 0.6), (1.75, 1.7, 0.6), (5., 2.2, 1.9), (0.8, 1.3, 0.6),
                  (10., 3.2, 2.6)])
FOCAL, CENTRE = 720., (620., 190.)


def image_boxes(box: np.ndarray) -> np.ndarray:
    """Image boxes (N, 4) of camera boxes (N, 7), each projected as an upright cylinder."""
    x, y, depth = box[:, 0], box[:, 1], np.maximum(box[:, 2], 2)
    half = np.hypot(box[:, 3], box[:, 5]) / 2
    corners = np.stack([x - half, y - box[:, 4], x + half, y], 1) * FOCAL / depth[:, None]
    return np.clip(corners + np.tile(CENTRE, 2), 0, (1242, 375, 1242, 375))


def objects(rng: np.random.Generator, count: int) -> dict:
    """Objects of one frame, the last one an image region without labels."""
    label = rng.choice(len(SIZES), count, p=(.45, .2, .15, .1, .05, .05))
    depth = rng.uniform(5, 60, count)
    place = np.stack([rng.uniform(-.7, .7, count) * depth, rng.normal(1.7, .1, count), depth], 1)
    box = np.hstack([place, SIZES[label] * rng.normal(1, .08, (count, 3)), rng.uniform(-3.1, 3.1, (count, 1))])
    left, top = rng.uniform(0, 1100), rng.uniform(150, 200)
    region = np.array([[left, top, left + rng.uniform(40, 140), top + rng.uniform(20, 60)]])
    void = np.array([[-1000., -1000, -1000, -1, -1, -1, -10]])
    return anno(np.append(label, 6), np.vstack([box, void]), np.vstack([image_boxes(box), region]),
                occluded=np.append(rng.integers(0, 4, count), -1), score=np.zeros(count + 1),
                truncated=np.append(np.where(rng.random(count) < .2, rng.random(count), 0), -1))


def detections(rng: np.random.Generator, truth: dict, false: int) -> dict:
    """Detections of a frame: most objects with errors, some twice, some mistaken for another class, some invented."""
    box = np.hstack([truth['location'], truth['dimensions'], truth['rotation_y'][:, None]])[:-1]
    label = np.array([CLASSES.index(name) for name in truth['name'][:-1]])
    times = (rng.random(len(box)) < .85) * (1 + (rng.random(len(box)) < .15))
    box, label = np.repeat(box, times, 0), np.repeat(label, times)
    label = np.where(rng.random(len(box)) < .1, rng.integers(0, 3, len(box)), label)
    far = np.tile(box[:1], (false, 1)) if len(box) else np.tile((0., 1.7, 20, 3.9, 1.5, 1.6, 0), (false, 1))
    far[:, 0], far[:, 2] = rng.uniform(-20, 20, false), rng.uniform(5, 60, false)
    box = np.vstack([box, far]) + rng.normal(0, (.06, .03, .08, .06, .03, .03, .05), (len(box) + false, 7))
    label = np.append(label, rng.integers(0, 3, false)).astype(int)
    keep = label < 3
    box, label = box[keep], label[keep]
    image = image_boxes(box) + rng.normal(0, 1, (len(box), 4))
    return anno(label, box, image, occluded=np.zeros(len(box)), truncated=np.zeros(len(box)),
                score=np.where(np.arange(len(box)) < len(box) - false, rng.beta(4, 2, len(box)),
                               rng.beta(2, 4, len(box))))


def anno(label: np.ndarray, box: np.ndarray, image: np.ndarray, **columns: np.ndarray) -> dict:
    """Annotation dict in the form of mmdet3d."""
    columns.update(bbox=image, location=box[:, :3], dimensions=box[:, 3:6], rotation_y=box[:, 6],
                   alpha=np.where(label == 6, -10, box[:, 6] - np.arctan2(box[:, 0], box[:, 2])))
    return dict(name=np.array([CLASSES[i] for i in label], dtype='U20'),
                **{key: np.round(value.astype(float), 4) for key, value in columns.items()})


def scenes(seed: int, frames: int, most: int = 12, false: int = 6) -> tuple[list[dict], list[dict]]:
    """Objects and detections of some frames; the second frame has no detection."""
    rng = np.random.default_rng(seed)
    truth = [objects(rng, rng.integers(1, most + 1)) for _ in range(frames)]
    found = [detections(rng, frame, int(rng.integers(0, false + 1))) for frame in truth]
    found[1] = {key: value[:0] for key, value in found[1].items()}
    return truth, found


def main() -> None:
    """Write kitti_eval.json beside this file."""
    if os.environ.get('NUMBA_ENABLE_CUDASIM') != '1':
        raise SystemExit('set NUMBA_ENABLE_CUDASIM=1')
    folder = Path(importlib.util.find_spec('mmdet3d').origin).parent / 'evaluation/functional'
    sys.path.insert(0, str(folder))  # the functions alone: importing mmdet3d would need a compiled mmcv
    from kitti_utils import eval as stock
    from kitti_utils.rotate_iou import rotate_iou_gpu_eval
    truth, found = scenes(SEED, FRAMES)
    classes = list(CLASSES[:3])
    _, values = stock.kitti_eval(truth, found, classes, eval_types=['bbox', 'bev', '3d'])
    least = np.array([[[.7, .5, .5]] * 3, [[.7, .5, .5], [.5, .25, .25], [.5, .25, .25]]])
    image = stock.eval_class(truth, found, [0, 1, 2], [0, 1, 2], 0, least, compute_aos=True)
    rng = np.random.default_rng(SEED)
    boxes = np.round(np.hstack([rng.uniform(-2, 2, (12, 2)), rng.uniform(.5, 4, (12, 2)),
                                rng.uniform(-4, 4, (12, 1))]), 4)
    overlaps = {str(c): np.round(rotate_iou_gpu_eval(boxes[:6], boxes[6:], c), 6).tolist() for c in (-1, 0, 1, 2)}
    orientation = {f'{points}': np.round(getter(image['orientation']), 6).tolist()
                   for points, getter in ((11, stock.get_mAP11), (40, stock.get_mAP40))}
    record = dict(
        provenance=dict(repository='github.com/open-mmlab/mmdetection3d', version='1.4.0', seed=SEED, frames=FRAMES,
                        command='NUMBA_ENABLE_CUDASIM=1 python tests/data/parity/kitti_eval_record.py',
                        functions='kitti_eval, eval_class (compute_aos=True), rotate_iou_gpu_eval; CUDA simulator'),
        truth=[{k: v.tolist() for k, v in frame.items()} for frame in truth],
        found=[{k: v.tolist() for k, v in frame.items()} for frame in found],
        values={k: round(float(v), 6) for k, v in values.items()}, orientation=orientation,
        boxes=boxes.tolist(), overlaps=overlaps)
    Path(__file__).with_name('kitti_eval.json').write_text(json.dumps(record, separators=(',', ':')))


if __name__ == '__main__':
    main()
