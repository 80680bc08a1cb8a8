"""KITTI's average precision: against recorded values of mmdet3d, a reference in loops, and by the two metrics."""

import importlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from mmpapers.compat import kitti_eval as shim
from mmpapers.evaluation.kitti_ap import DIFFICULTIES, KINDS, KittiAP, Part, ap, score_thresholds
from mmpapers.evaluation.kitti_overlap import rotated_overlap

pytestmark = pytest.mark.det3d

RECORD = Path(__file__).parents[1] / 'data/parity/kitti_eval.json'
WIDTHS = {'bbox': (-1, 4), 'location': (-1, 3), 'dimensions': (-1, 3)}
CLASSES = ('Car', 'Pedestrian', 'Cyclist')
STOCK = 'mmdet3d.evaluation.functional.kitti_utils'


def frames(rows):
    return [{key: np.array(value).reshape(WIDTHS.get(key, -1)) for key, value in row.items()} for row in rows]


@pytest.fixture(scope='module')
def record():
    content = json.loads(RECORD.read_text())
    content['truth'], content['found'] = frames(content['truth']), frames(content['found'])
    return content


# --- the reference: one frame, one object, one detection at a time ---------------------------------------------------

def corners(x, y, length, width, yaw):
    """Clockwise for positive yaw, as KITTI's camera has it."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return [(x + cos * u + sin * v, y - sin * u + cos * v) for u, v in
            ((length / 2, width / 2), (length / 2, -width / 2), (-length / 2, -width / 2), (-length / 2, width / 2))]


def polygon_area(points):
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1]))) / 2


def shared_area(a, b):
    """Cut polygon a by each side of the convex polygon b."""
    middle = (sum(x for x, _ in b) / 4, sum(y for _, y in b) / 4)
    for (x1, y1), (x2, y2) in zip(b, b[1:] + b[:1]):
        def side(p):
            return (x2 - x1) * (p[1] - y1) - (y2 - y1) * (p[0] - x1)  # noqa: B023
        sign, kept = math.copysign(1, side(middle)), []
        for p, q in zip(a, a[1:] + a[:1]):
            one, two = sign * side(p), sign * side(q)
            if one >= 0:
                kept.append(p)
            if one * two < 0:
                t = one / (one - two)
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        a = kept
        if not a:
            return 0.
    return polygon_area(a)


def overlap(kind, gt, j, dt, i):
    if kind == '2D':
        a, b = dt['bbox'][i], gt['bbox'][j]
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return 0.
        return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)
    (x, y, z), (length, high, wide), turn = dt['location'][i], dt['dimensions'][i], dt['rotation_y'][i]
    (x2, y2, z2), (length2, high2, wide2), turn2 = gt['location'][j], gt['dimensions'][j], gt['rotation_y'][j]
    if gt['name'][j] == 'DontCare':
        return 0.
    shared = shared_area(corners(x, z, length, wide, turn), corners(x2, z2, length2, wide2, turn2))
    if kind == 'BEV':
        return shared / (length * wide + length2 * wide2 - shared)
    shared *= max(0., min(y, y2) - max(y - high, y2 - high2))
    return shared / (length * wide * high + length2 * wide2 * high2 - shared)


def reference(truth, found, name, difficulty, kind, least, inside=lambda f, j: True, counts=lambda f, i: True):
    """AP at 40 and 11 recalls, and AOS at 40, by the rules of the development kit; O(everything)."""
    low = (40, 25, 25)[difficulty]
    beside = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}.get(name)

    def state_gt(f, j):
        gt = truth[f]
        if gt['name'][j] == beside:
            return 'spared'
        if gt['name'][j] != name:
            return 'out'
        hard = gt['occluded'][j] > difficulty or gt['truncated'][j] > (.15, .3, .5)[difficulty] \
            or gt['bbox'][j][3] - gt['bbox'][j][1] <= low
        return 'spared' if hard or not inside(f, j) else 'valid'

    def state_dt(f, i):
        dt = found[f]
        if dt['bbox'][i][3] - dt['bbox'][i][1] < low:
            return 'spared'
        return 'valid' if dt['name'][i] == name else 'out'

    gts = [[state_gt(f, j) for j in range(len(gt['name']))] for f, gt in enumerate(truth)]
    dts = [[state_dt(f, i) for i in range(len(dt['name']))] for f, dt in enumerate(found)]
    table = {(f, i, j): overlap(kind, truth[f], j, found[f], i) for f in range(len(truth))
             for i in range(len(dts[f])) for j in range(len(gts[f])) if dts[f][i] != 'out' and gts[f][j] != 'out'}

    def match(f, threshold, best):
        taken, pairs = set(), []
        for j, state in enumerate(gts[f]):
            if state == 'out':
                continue
            able = [i for i, each in enumerate(dts[f]) if each != 'out' and i not in taken
                    and found[f]['score'][i] >= threshold and table[f, i, j] > least]
            if best == 'score':
                able.sort(key=lambda i: -found[f]['score'][i])
            else:
                valid = [i for i in able if dts[f][i] == 'valid']
                able = sorted(valid, key=lambda i: -table[f, i, j]) or able  # noqa: B023
            if able:
                taken.add(able[0])
                if state == 'valid' and dts[f][able[0]] == 'valid':
                    pairs.append((able[0], j))
        return taken, pairs

    total = sum(state == 'valid' for row in gts for state in row)
    scores = [found[f]['score'][i] for f in range(len(truth)) for i, _ in match(f, -1, 'score')[1]]
    scores.sort(reverse=True)
    thresholds, recall = [], 0.
    for k, score in enumerate(scores):
        here, after = (k + 1) / total, (k + 2) / total
        if k + 1 < len(scores) and after - recall < recall - here:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, similar = [0.] * 41, [0.] * 41
    for t, threshold in enumerate(thresholds):
        hits = wrong = 0
        alike = 0.
        for f in range(len(truth)):
            taken, pairs = match(f, threshold, 'overlap')
            hits += len(pairs)
            alike += sum((1 + math.cos(truth[f]['alpha'][j] - found[f]['alpha'][i])) / 2 for i, j in pairs)
            for i, state in enumerate(dts[f]):
                if state != 'valid' or i in taken or found[f]['score'][i] < threshold or not counts(f, i):
                    continue
                x1, y1, x2, y2 = found[f]['bbox'][i]
                regions = [truth[f]['bbox'][j] for j, each in enumerate(truth[f]['name']) if each == 'DontCare']
                void = kind == '2D' and any(
                    max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) > least * (x2 - x1) * (y2 - y1)
                    for a, b, c, d in regions)
                wrong += not void
        precision[t], similar[t] = hits / max(hits + wrong, 1), alike / max(hits + wrong, 1)
    precision = [max(precision[t:]) for t in range(41)]
    similar = [max(similar[t:]) for t in range(41)]
    return 100 * sum(precision[1:]) / 40, 100 * sum(precision[::4]) / 11, 100 * sum(similar[1:]) / 40


# --- tests -----------------------------------------------------------------------------------------------------------

def test_recorded(record):
    """All 108 average precisions and the orientations that mmdet3d's own code gave on the same detections."""
    evaluation = KittiAP(record['truth'], record['found'])
    checked = 0
    for number, name in enumerate(CLASSES):
        for level, difficulty in enumerate(DIFFICULTIES):
            for kind in KINDS:
                for loose, word in enumerate(('strict', 'loose')):
                    precision, similar = evaluation.curves(name, level, kind, evaluation.threshold(name, kind, loose))
                    for points in (11, 40):
                        expected = record['values'][f'KITTI/{name}_{kind}_AP{points}_{difficulty}_{word}']
                        assert ap(precision, points) == pytest.approx(expected, abs=1e-5)
                        checked += 1
                        if kind == '2D':
                            expected = record['orientation'][str(points)][number][level][loose]
                            assert ap(similar, points) == pytest.approx(expected, abs=1e-5)
    assert checked == 108 and max(record['values'].values()) > 60


@pytest.mark.parametrize('criterion', [-1, 0, 1, 2])
def test_recorded_overlaps(record, criterion):
    boxes = np.array(record['boxes'])
    np.testing.assert_allclose(rotated_overlap(boxes[:6], boxes[6:], criterion), record['overlaps'][str(criterion)],
                               atol=2e-6)


@pytest.mark.parametrize(('name', 'difficulty', 'kind', 'least'), [
    ('Car', 0, '2D', .7), ('Car', 1, '3D', .7), ('Car', 2, 'BEV', .5), ('Pedestrian', 1, '2D', .5),
    ('Pedestrian', 2, '3D', .25), ('Cyclist', 2, 'BEV', .5), ('Truck', 1, '2D', .5)])
def test_reference(record, name, difficulty, kind, least):
    truth, found = record['truth'], record['found']
    precision, similar = KittiAP(truth, found).curves(name, difficulty, kind, least)
    expected = reference(truth, found, name, difficulty, kind, least)
    assert (ap(precision, 40), ap(precision, 11), ap(similar, 40)) == pytest.approx(expected, abs=1e-9)
    assert (expected[0] > 10) == (name != 'Truck'), 'nobody looks for trucks'


def test_reference_of_a_part(record):
    """Only near objects: others are spared, and far false positives do not count."""
    truth, found = record['truth'][:16], record['found'][:16]
    evaluation = KittiAP(truth, found)
    near = [np.hypot(boxes.box[:, 0], boxes.box[:, 2]) < 30 for boxes in (evaluation.gt, evaluation.dt)]
    precision, _ = evaluation.curves('Car', 2, '3D', .5, Part('near', *near))

    def close(rows):
        return lambda f, k: math.hypot(rows[f]['location'][k][0], rows[f]['location'][k][2]) < 30

    expected = reference(truth, found, 'Car', 2, '3D', .5, close(truth), close(found))
    whole = reference(truth, found, 'Car', 2, '3D', .5)
    assert ap(precision, 40) == pytest.approx(expected[0], abs=1e-9)
    assert expected[0] != whole[0]


def test_overlap_closed_form():
    square = np.array([[5, 3, 1, 1, 0.]])
    for yaw in (0, np.pi / 2, np.pi, -7 * np.pi / 2):
        assert rotated_overlap(square, [[5, 3, 1, 1, yaw]])[0, 0] == pytest.approx(1)
    octagon = 2 * math.sqrt(2) - 2  # a unit square and the same turned by 45 degrees
    assert rotated_overlap(square, [[5, 3, 1, 1, np.pi / 4]], 2)[0, 0] == pytest.approx(octagon)
    assert rotated_overlap(square, [[5.5, 3, 1, 1, 0]], 2)[0, 0] == pytest.approx(.5)
    assert rotated_overlap([[0, 0, 4, 4, .3]], [[.1, 0, 1, 1, 1.1]], 0)[0, 0] == pytest.approx(1)
    assert rotated_overlap([[0, 0, 4, 4, .3]], [[.1, 0, 1, 1, 1.1]], 1)[0, 0] == pytest.approx(1 / 16)
    assert rotated_overlap([[0, 0, 2, 0, 0]], [[0, 0, 2, 0, 0]])[0, 0] == 0
    assert rotated_overlap(square, [[7, 3, 1, 1, .2]])[0, 0] == 0
    assert rotated_overlap(np.zeros((0, 5)), square).shape == (0, 1)


def test_overlap_is_symmetric():
    rng = np.random.default_rng(3)
    boxes = np.hstack([rng.uniform(-3, 3, (40, 2)), rng.uniform(.3, 5, (40, 2)), rng.uniform(-9, 9, (40, 1))])
    iou = rotated_overlap(boxes, boxes)
    np.testing.assert_allclose(iou, iou.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(iou), 1)
    assert (iou <= 1 + 1e-12).all() and (iou > 0).mean() > .3


def test_score_thresholds():
    assert score_thresholds(np.array([.3, .9, .5]), 3).tolist() == [.9, .5, .3]
    many = score_thresholds(np.linspace(0, 1, 400), 400)
    assert len(many) == 41 and (np.diff(many) < 0).all()
    assert len(score_thresholds(np.linspace(0, 1, 400), 800)) == 21
    assert len(score_thresholds(np.zeros(0), 0)) == 0


def perfect(count, misses=0):
    """Frames of one car each, all found but some."""
    car = dict(name=np.array(['Car']), bbox=np.array([[10., 10, 90, 90]]), location=np.array([[1., 1.7, 12]]),
               dimensions=np.array([[3.9, 1.5, 1.6]]), rotation_y=np.array([.3]), alpha=np.array([.2]),
               occluded=np.zeros(1), truncated=np.zeros(1))
    found = [dict(car, score=np.array([.5 + k / 1000])) for k in range(count)]
    for k in range(misses):
        found[k] = {key: value[:0] for key, value in found[k].items()}
    return [car] * count, found


def test_few_objects():
    """KITTI's rule caps AP at (n - 1) / 40; ``small_set`` reads precision where recall really is."""
    for count in (5, 20):
        curve, _ = KittiAP(*perfect(count)).curves('Car', 0, '3D', .7)
        assert ap(curve, 40) == pytest.approx(100 * (count - 1) / 40)
        curve, similar = KittiAP(*perfect(count), small_set=True).curves('Car', 0, '3D', .7)
        assert ap(curve, 40) == ap(curve, 11) == ap(similar, 40) == 100
    curve, _ = KittiAP(*perfect(20, misses=10), small_set=True).curves('Car', 0, '3D', .7)
    assert ap(curve, 40) == 50
    for small in (False, True):
        curve, _ = KittiAP(*perfect(400, misses=200), small_set=small).curves('Car', 0, '3D', .7)
        assert ap(curve, 40) == pytest.approx(50, abs=2.6)


def test_nothing_there(record):
    """No detection, no object, no frame: zeros, never an error."""
    none = {key: value[:0] for key, value in record['found'][0].items()}
    for truth, found in (([none, record['truth'][0]], [none, none]), ([none], [record['found'][0]]), ([], [])):
        evaluation = KittiAP(truth, found)
        for kind in KINDS:
            assert ap(evaluation.curves('Car', 2, kind, .5)[0], 40) == 0
    assert not KittiAP([], []).has_alpha


def test_errors(record):
    with pytest.raises(ValueError, match='1 frames were predicted, but 2 have annotations'):
        KittiAP(record['truth'][:2], record['found'][:1])
    with pytest.raises(KeyError, match=r'class .Tram.*test_evaluator.least = dict\(Tram=\(0.7, 0.5\)\)'):
        KittiAP([], []).threshold('Tram', '3D')
    assert KittiAP([], [], dict(Tram=(.6, .4))).threshold('Tram', '3D', loose=True) == .4
    for bins in ((50, 10), (10, 10)):
        with pytest.raises(ValueError, match='test_evaluator.point_bins must be ascending'):
            METRICS.build(dict(type='mmpapers.FastKittiMetric', ann_file='x.pkl', point_bins=bins))


@pytest.fixture
def stock(monkeypatch):
    """mmdet3d's evaluation without numba's compiler, which needs longer than these tests."""
    module = importlib.import_module(f'{STOCK}.eval')
    for name in ('get_thresholds', 'image_box_overlap', 'd3_box_overlap_kernel', 'compute_statistics_jit',
                 'fused_compute_statistics'):
        monkeypatch.setattr(module, name, getattr(module, name).py_func)
    return module


def test_stock_runs_without_cuda(stock, record):
    """mmdet3d's own code gives what it gave with CUDA kernels."""
    truth, found = record['truth'][:8], record['found'][:8]
    least = np.array([[[.7], [.7], [.7]]])
    evaluation = KittiAP(truth, found)
    for metric, kind in enumerate(KINDS):
        precision = stock.eval_class(truth, found, [0], [2], metric, least)['precision'][0, 0, 0]
        assert ap(evaluation.curves('Car', 2, kind, .7)[0], 40) == pytest.approx(stock.get_mAP40(precision))
    assert stock.get_mAP40(precision) > 10


def test_shim(monkeypatch):
    """The module that CUDA would compile is supplied where there is none, and left alone where there is."""
    name = f'{STOCK}.rotate_iou'
    assert not shim.cuda_available()
    module = importlib.import_module(name)
    assert module.rotate_iou_gpu_eval is shim.rotate_iou_gpu_eval
    given = module.rotate_iou_gpu_eval(np.zeros((2, 5)), np.ones((3, 5)), 2)
    assert given.shape == (2, 3) and given.dtype == np.float32
    finder = shim._Supply()
    assert finder.find_spec(name).loader is finder and finder.find_spec('json') is None
    monkeypatch.setattr(shim, 'cuda_available', lambda: True)
    assert finder.find_spec(name) is None


def predict(root, metric):
    """Give a metric the ground truth as predictions."""
    from mmdet3d.datasets import KittiDataset
    dataset = KittiDataset(data_root=str(root), ann_file='kitti_infos_val.pkl', test_mode=True,
                           metainfo=dict(classes=CLASSES), data_prefix=dict(pts='training/velodyne_reduced'))
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        truth = dataset.get_data_info(index)['eval_ann_info']
        keep = torch.from_numpy(truth['gt_labels_3d'] >= 0)
        found = dict(bboxes_3d=truth['gt_bboxes_3d'][keep], labels_3d=torch.from_numpy(truth['gt_labels_3d'])[keep],
                     scores_3d=torch.linspace(.9, .4, int(keep.sum())))
        metric.process({}, [dict(pred_instances_3d=found, pred_instances={}, sample_idx=index)])
    return metric.compute_metrics(metric.results)


def test_metric(kitti_set, monkeypatch):
    lines = []
    monkeypatch.setattr('mmpapers.evaluation.kitti_metric.print_log', lambda text, logger: lines.append(text))
    config = dict(type='mmpapers.FastKittiMetric', ann_file=str(kitti_set / 'kitti_infos_val.pkl'), point_bins=(10,),
                  distance_bins=(15,), small_set=True, pcd_limit_range=[0, -40, -3, 70.4, 40, 3.])
    values = predict(kitti_set, METRICS.build(config))
    prefix = 'pred_instances_3d/KITTI'
    assert values[f'{prefix}/Car_3D_AP40_moderate_strict'] == values[f'{prefix}/Overall_BEV_AP11_hard'] == 100
    assert values[f'{prefix}/Car_3D_AP40_moderate_strict_points_<10'] == 100
    assert values[f'{prefix}/Cyclist_BEV_AP40_hard_strict_metres_>=15'] == 100
    assert f'{prefix}/Cyclist_BEV_AP40_hard_strict_metres_<15' not in values, 'there is none'
    rows = [line.replace('|', ' ').split() for line in lines[0].splitlines()]
    assert ['Car', 'strict', '3D'] + ['100.00'] * 6 in rows
    assert ['Car', 'points_<10', '100.00', '100.00', '100.00', '1,', '1,', '1'] in rows
    assert ['Cyclist', 'metres_<15', '-', '-', '-', '0,', '0,', '0'] in rows
    assert 'Few objects' not in lines[0]


def test_metric_has_the_keys_of_stock(kitti_set, stock, monkeypatch):
    """Every key of ``KittiMetric`` with its value; KITTI's rule gives 3 perfect frames (3 - 1) / 40."""
    settings = dict(ann_file=str(kitti_set / 'kitti_infos_val.pkl'), pcd_limit_range=[0, -40, -3, 70.4, 40, 3.])
    ours = predict(kitti_set, METRICS.build(dict(type='mmpapers.FastKittiMetric', **settings)))
    theirs = predict(kitti_set, METRICS.build(dict(type='mmdet3d.KittiMetric', **settings)))
    assert len(theirs) == 126 and {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-4)
    assert ours['pred_instances_3d/KITTI/Car_3D_AP40_easy_strict'] == 5


def test_metric_needs_counted_points(kitti_set, tmp_path):
    content = pickle.loads((kitti_set / 'kitti_infos_val.pkl').read_bytes())
    for frame in content['data_list']:
        for instance in frame['instances']:
            del instance['num_lidar_pts']
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(content))
    metric = METRICS.build(dict(type='mmpapers.FastKittiMetric', ann_file=str(tmp_path / 'infos.pkl'),
                                point_bins=(10,)))
    with pytest.raises(ValueError, match='point_bins needs num_lidar_pts'):
        predict(kitti_set, metric)
