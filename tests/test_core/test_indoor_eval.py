"""Indoor average precision and recall on the CPU against loops, and the rate of duplicates."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

pytestmark = pytest.mark.det3d

CLASSES = ('bed', 'chair', 'table')


def corners(x, y, length, width, yaw):
    cos, sin = math.cos(yaw), math.sin(yaw)
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in
            ((length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2))]


def shared_area(a, b):
    """Cut polygon a by each side of b; both counter-clockwise."""
    for (x1, y1), (x2, y2) in zip(b, b[1:] + b[:1]):
        sides = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in a]
        kept = []
        for p, q, one, two in zip(a, a[1:] + a[:1], sides, sides[1:] + sides[:1]):
            if one >= 0:
                kept.append(p)
            if one * two < 0:
                t = one / (one - two)
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        a = kept
        if not a:
            return 0.
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(a, a[1:] + a[:1]))) / 2


def iou(a, b):
    """3D IoU of boxes x, y, z (centre), length, width, height, yaw."""
    high = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    shared = shared_area(corners(*a[[0, 1, 3, 4, 6]]), corners(*b[[0, 1, 3, 4, 6]])) * max(high, 0)
    return shared / (a[3:6].prod() + b[3:6].prod() - shared)


def reference(truth, found, label, least):
    """AP (area under the curve) and recall of one class: predictions by score, each takes its nearest object."""
    total = sum(int((labels == label).sum()) for _, labels in truth)
    rows = sorted(((score, f, box) for f, (boxes, labels, scores) in enumerate(found)
                   for box, each, score in zip(boxes, labels, scores) if each == label), key=lambda row: -row[0])
    taken, hits, curve = set(), 0, []
    for rank, (_, f, box) in enumerate(rows, 1):
        near = [(iou(box, other), j) for j, (other, each) in enumerate(zip(*truth[f])) if each == label]
        best, j = max(near, default=(0, -1), key=lambda pair: pair[0])
        if best > least and (f, j) not in taken:
            taken.add((f, j))
            hits += 1
        curve.append((hits / total, hits / rank))
    area, last = 0., 0.
    for index, (recall, _) in enumerate(curve):
        area += (recall - last) * max(precision for _, precision in curve[index:])
        last = recall
    return area, last


def scenes(yawed=True, count=10, seed=0):
    """Objects, and predictions: the objects with errors, some twice, and invented ones."""
    rng = np.random.default_rng(seed)

    def boxes(number):
        return np.hstack([rng.uniform(-3, 3, (number, 2)), rng.uniform(0, 1, (number, 1)),
                          rng.uniform(.5, 2, (number, 3)), rng.uniform(-3, 3, (number, 1)) * yawed])

    truth, found = [], []
    for index in range(count):
        number = 0 if index == 3 else int(rng.integers(1, 8))
        objects, labels = boxes(number), rng.integers(0, 3, number)
        truth.append((objects, labels))
        noise = rng.normal(0, (.08, .08, .05, .06, .06, .06, .1 * yawed), (2 * number, 7))
        twice = rng.random(2 * number) < .7
        box = np.vstack([(np.vstack([objects] * 2) + noise)[twice], boxes(4)])
        label = np.concatenate([np.concatenate([labels] * 2)[twice], rng.integers(0, 3, 4)])
        found.append((box, label, rng.random(len(box))))
    return truth, found


def results(truth, found, yawed=True):
    """In the form of mmdet3d's metric."""
    from mmdet3d.structures import DepthInstance3DBoxes

    def boxes(values):
        kept = torch.as_tensor(values[:, :7 if yawed else 6]).float()
        return DepthInstance3DBoxes(kept, box_dim=kept.shape[1], with_yaw=yawed, origin=(.5, .5, .5))

    return [(dict(gt_bboxes_3d=boxes(a), gt_labels_3d=labels),
             dict(bboxes_3d=boxes(b), labels_3d=torch.as_tensor(each), scores_3d=torch.as_tensor(scores).float()))
            for (a, labels), (b, each, scores) in zip(truth, found)]


def metric(kind='mmpapers.IndoorDuplicatesMetric', **settings):
    built = METRICS.build(dict(type=kind, **settings))
    built.dataset_meta = dict(classes=CLASSES, box_type_3d='depth')
    return built


@pytest.mark.parametrize('yawed', [True, False])
@pytest.mark.parametrize('kind', ['mmpapers.IndoorDuplicatesMetric', 'mmdet3d.IndoorMetric'])
def test_reference(kind, yawed):
    """SUN RGB-D's turned boxes and ScanNet's upright ones; one frame has no object."""
    truth, found = scenes(yawed)
    values = metric(kind).compute_metrics(results(truth, found, yawed))
    areas, recalls = [], []
    for label, name in enumerate(CLASSES):
        for least in (.25, .5):
            area, recall = reference(truth, found, label, least)
            assert values[f'{name}_AP_{least:.2f}'] == pytest.approx(area, abs=1e-5)
            assert values[f'{name}_rec_{least:.2f}'] == pytest.approx(recall, abs=1e-5)
            if least == .5:
                areas.append(area)
                recalls.append(recall)
    assert values['mAP_0.50'] == pytest.approx(np.mean(areas), abs=1e-5) and .1 < np.mean(areas) < .9
    assert values['mAR_0.50'] == pytest.approx(np.mean(recalls), abs=1e-5)


def test_duplicates():
    """Against loops over all pairs, turned boxes."""
    truth, found = scenes()
    values = metric().compute_metrics(results(truth, found))
    doubles = total = 0
    for boxes, labels, scores in found:
        for i in range(len(boxes)):
            total += 1
            doubles += any(scores[j] > scores[i] and labels[i] == labels[j] and iou(boxes[i], boxes[j]) > .25
                           for j in range(len(boxes)))
    assert values['duplicate_rate'] == pytest.approx(doubles / total) and doubles > 5
    assert metric(duplicate_iou=.99).compute_metrics(results(truth, found))['duplicate_rate'] == 0
    loud = metric(duplicate_score=.5).compute_metrics(results(truth, found))['duplicate_rate']
    assert 0 < loud != values['duplicate_rate']


def test_duplicates_closed_form():
    """Of equal boxes the best is kept, by the first where scores are equal; other classes do not matter."""
    from mmdet3d.structures import DepthInstance3DBoxes

    from mmpapers.evaluation.indoor import duplicates
    boxes = DepthInstance3DBoxes(torch.tensor([[0., 0, 0, 1, 1, 1, .3]]).repeat(5, 1))
    scores, labels = torch.tensor([.5, .9, .9, .7, .2]), torch.tensor([0, 0, 0, 1, 1])
    assert duplicates(boxes, scores, labels).tolist() == [True, False, True, False, True]
    assert duplicates(boxes[:0], scores[:0], labels[:0]).tolist() == []


def test_class_without_objects():
    """Predictions of a class that nobody annotated leave the averages alone."""
    truth, found = scenes()
    truth = [(boxes[labels != 2], labels[labels != 2]) for boxes, labels in truth]
    values = metric().compute_metrics(results(truth, found))
    areas = [reference(truth, found, label, .25)[0] for label in (0, 1)]
    assert values['mAP_0.25'] == pytest.approx(np.mean(areas), abs=1e-5)
    assert 'table_AP_0.25' not in values


def test_nothing_predicted():
    truth, found = scenes()
    found = [(boxes[:0], labels[:0], scores[:0]) for boxes, labels, scores in found]
    values = metric(iou_thr=.25).compute_metrics(results(truth, found))
    assert values['mAP_0.25'] == values['mAR_0.25'] == values['duplicate_rate'] == 0 and 'mAP_0.50' not in values


def test_nothing_annotated():
    truth, found = scenes()
    truth = [(boxes[:0], labels[:0]) for boxes, labels in truth]
    with pytest.raises(ValueError, match='no frame has an annotated object; set test_mode=True'):
        metric().compute_metrics(results(truth, found))


def test_objects_without_a_class():
    """Objects of label -1 (nuScenes has some) count for no class; mmdet3d takes them for the last one."""
    truth, found = scenes()
    more = [(np.vstack([boxes, boxes[:1] + 1]), np.append(labels, [-1] * len(boxes[:1]))) for boxes, labels in truth]
    assert metric().compute_metrics(results(more, found)) == metric().compute_metrics(results(truth, found))


def test_limits():
    """Only what has its centre within the limits is judged, annotated or predicted."""
    truth, found = scenes()
    limits = (-2, -3.5, 0, 3.5, 1, .9)
    low, high = np.array(limits).reshape(2, 3)

    def inside(boxes):
        return ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(1)

    near = [(boxes[inside(boxes)], labels[inside(boxes)]) for boxes, labels in truth]
    kept = [(boxes[inside(boxes)], labels[inside(boxes)], scores[inside(boxes)]) for boxes, labels, scores in found]
    assert 5 < sum(map(len, (labels for _, labels in near))) < sum(map(len, (labels for _, labels in truth)))
    values = metric(limits=limits).compute_metrics(results(truth, found))
    assert values == metric().compute_metrics(results(near, kept))
    assert values['bed_AP_0.25'] == pytest.approx(reference(near, kept, 0, .25)[0], abs=1e-5)
    with pytest.raises(ValueError, match=r'no frame has an annotated object within test_evaluator.limits \[8, 8, 0,'):
        metric(limits=(8, 8, 0, 9, 9, 1)).compute_metrics(results(truth, found))
    with pytest.raises(ValueError, match='limits must be'):
        metric(limits=(0, 1))


def test_lidar_boxes_and_velocities():
    """LiDAR boxes are judged as they are, though no data set names their type; nuScenes' nine numbers as seven."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    def lidar(values, width):
        values = torch.cat([torch.as_tensor(values).float(), torch.full((len(values), 2), 3.)], 1)[:, :width]
        return LiDARInstance3DBoxes(values, box_dim=width, origin=(.5, .5, .5))

    truth, found = scenes()
    values = []
    for width in (7, 9):
        built = metric()
        del built.dataset_meta['box_type_3d']
        values.append(built.compute_metrics([
            (dict(gt_bboxes_3d=lidar(a, width), gt_labels_3d=labels),
             dict(bboxes_3d=lidar(b, width), labels_3d=torch.as_tensor(each), scores_3d=torch.as_tensor(scores)))
            for (a, labels), (b, each, scores) in zip(truth, found)]))
    assert values[0] == values[1]
    assert values[0]['bed_AP_0.25'] == pytest.approx(reference(truth, found, 0, .25)[0], abs=1e-5)


def test_process():
    """Predictions come as the runner gives them."""
    truth, found = results(*scenes(count=2))[0]
    built = metric()
    built.process({}, [dict(pred_instances_3d=found, eval_ann_info=truth)])
    assert built.evaluate(1)['mAP_0.25'] > 0
