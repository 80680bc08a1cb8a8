"""SparsePointHead: proposals, local attention, refinement, losses, predictions."""

import itertools
import math
from typing import Any

import pytest
import torch
from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from mmpapers.evaluation.indoor import duplicates
from mmpapers.layers.set_criterion3d import BoxQueries
from mmpapers.projects.sparsepoint.head import CRITERION
from mmpapers.projects.sparsepoint.proposals import LearnableProposals3D, scene_frame
from mmpapers.projects.sparsepoint.stage import LocalAttention3D

pytestmark = pytest.mark.det3d
TURNED = CRITERION | {'giou': False}


def build(**settings: Any) -> torch.nn.Module:
    return MODELS.build(dict(type='mmpapers.SparsePointHead', num_classes=3, in_channels=8, embed_dims=16,
                             num_proposals=7, num_stages=2, num_heads=2, num_neighbors=5, ffn_channels=16,
                             dropout=0.) | settings)


def scenes(samples: int = 2, seeds: int = 20) -> dict[str, list[Tensor]]:
    """What a backbone says of random clouds."""
    cloud = torch.rand(samples, 4 * seeds, 3) * torch.tensor([5., 4., 2.]) - 1
    return dict(sa_xyz=[cloud], fp_xyz=[cloud[:, :seeds]], fp_features=[torch.randn(samples, 8, seeds)])


def samples_of(*scenes: tuple[list, list[int]]) -> list[Det3DDataSample]:
    found = []
    for boxes, labels in scenes:
        sample = Det3DDataSample(metainfo=dict(box_type_3d=DepthInstance3DBoxes))
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=DepthInstance3DBoxes(torch.tensor(boxes, dtype=torch.float).view(-1, 7), origin=(.5, .5, .5)),
            labels_3d=torch.tensor(labels, dtype=torch.long))
        found.append(sample)
    return found


SAMPLES = (([[1., 1, .5, 1, .6, 1, .3], [2., 0, .5, .5, .5, 1, 4.]], [0, 2]), ([], []))


def test_proposals_cover_the_floor() -> None:
    for number, side in ((16, 4), (10, 4), (1, 1)):
        place = LearnableProposals3D(number, 8, z_range=(.2, .3)).position.detach().sigmoid()
        cells = (place[:, :2] * side).long()
        assert len({tuple(c) for c in cells.tolist()}) == number
        assert place[:, 2].min() >= .2 and place[:, 2].max() <= .3
        assert (place[:, :2] * side - cells - .5).abs().max() <= .25 + 1e-6


def test_content_is_the_same_for_all_proposals() -> None:
    """Property 2."""
    head, contents = build().eval(), []
    head.stages[0].register_forward_pre_hook(lambda _, args: contents.append(args[0]))
    head(scenes())
    assert contents[0].shape == (2, 7, 16) and not contents[0].std(dim=1).any()
    torch.testing.assert_close(contents[0][1, 3], head.proposals.content)


@pytest.mark.parametrize('gather', ['local', 'global'])
def test_permuting_proposals_permutes_predictions(gather: str) -> None:
    """Property 3."""
    head, feats, order = build(gather=gather).eval(), scenes(), torch.randperm(7)
    before = head(feats)
    head.proposals.position.data = head.proposals.position.data[order]
    for one, other in zip(before, head(feats)):
        torch.testing.assert_close(one.logits[:, order], other.logits)
        torch.testing.assert_close(one.boxes[:, order], other.boxes)


@pytest.mark.parametrize('gather', ['local', 'global'])
def test_moving_the_scene_moves_the_boxes(gather: str) -> None:
    """Property 4."""
    head, feats, shift = build(gather=gather).eval(), scenes(), torch.tensor([8., -16., 2.])
    moved = feats | dict(sa_xyz=[feats['sa_xyz'][0] + shift], fp_xyz=[feats['fp_xyz'][0] + shift])
    for one, other in zip(head(feats), head(moved)):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes[..., :3] + shift, other.boxes[..., :3], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes[..., 3:], other.boxes[..., 3:], atol=1e-4, rtol=1e-4)


class Sizes(TorchDispatchMode):
    """Record the operators that make tensors with both of two sizes; views make none."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes, self.found = sizes, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor) and not func.is_view and all(size in tensor.shape for size in self.sizes):
                self.found.add(func.__name__.split('.')[0].strip('_'))
        return out


def test_nothing_but_the_search_is_as_large_as_proposals_times_seeds() -> None:
    """Property 5; sizes are primes, so that a tensor that has both is one of proposals and seeds."""
    head = build(num_proposals=23)
    with Sizes(23, 101) as record:
        head.loss([], scenes(2, 101), samples_of(*SAMPLES))
    assert record.found and record.found <= {'cdist_forward', 'euclidean_dist'}


def test_memory_grows_with_the_number_of_proposals() -> None:
    """Property 5: half the proposals take half of what local attention keeps for its backward pass."""
    attention = LocalAttention3D(16, 2, 5)
    seeds, features = torch.rand(1, 40, 3), torch.randn(1, 40, 16)

    def kept(number: int) -> int:
        storages: dict[int, Tensor] = {}
        with saved_tensors_hooks(lambda t: storages.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t):
            attention(torch.randn(1, number, 16), torch.rand(1, number, 3), seeds, features)
        return sum(t.untyped_storage().nbytes() for t in storages.values())
    small, middle, large = kept(100), kept(200), kept(400)
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.05)
    assert middle / large == pytest.approx(0.5, abs=0.05)


def test_local_attention_is_a_loop() -> None:
    attention = LocalAttention3D(8, 2, 4, position_channels=6).double()
    query, centre = torch.randn(2, 5, 8).double(), torch.rand(2, 5, 3).double()
    seeds, features = torch.rand(2, 9, 3).double(), torch.randn(2, 9, 8).double()
    expected = torch.zeros(2, 5, 8).double()
    for b, n in itertools.product(range(2), range(5)):
        near = (seeds[b] - centre[b, n]).norm(dim=1).argsort()[:4]
        hidden = attention.offset(seeds[b, near] - centre[b, n])
        key, value = attention.key_value(features[b, near]).split(8, -1)
        q, bias = attention.query(query[b, n]), attention.bias(hidden)
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            weight = (key[:, part] @ q[part] / 2 + bias[:, h]).softmax(0)
            heads.append(weight @ (value[:, part] + hidden @ attention.place[h]))
        expected[b, n] = attention.out(torch.cat(heads))
    torch.testing.assert_close(attention(query, centre, seeds, features), expected)


def test_far_seeds_do_not_matter_locally() -> None:
    head, feats = build(num_stages=1).eval(), scenes()
    centre, _ = head.proposals(*(x[:, None] for x in scene_frame(feats['sa_xyz'][0])))
    near = torch.cdist(centre, feats['fp_xyz'][0]).topk(5, largest=False).indices[0].unique()
    far = next(i for i in range(20) if i not in near)
    before = head(feats)[0].logits[0]
    feats['fp_features'][0][0, :, far] += 100
    assert torch.equal(before, head(feats)[0].logits[0])
    feats['fp_features'][0][0, :, int(near[0])] += 100
    assert not torch.equal(before, head(feats)[0].logits[0])


def test_proposals_learn_of_each_other_from_the_first_stage_on() -> None:
    """Where one proposal is changes what another predicts, though their contents are alike."""
    for attention in (True, False):
        head, feats = build(num_stages=1, object_attention=attention).eval(), scenes()
        before = head(feats)[0].logits[:, 1:]
        head.proposals.position.data[0] += 1
        assert torch.equal(before, head(feats)[0].logits[:, 1:]) != attention


def test_scene_frame_ignores_outliers() -> None:
    points = torch.rand(2, 1000, 3)
    points[0, 0], points[1, 5, 2] = 100., -50.
    low, extent = scene_frame(points)
    torch.testing.assert_close(low, points.amin(1))
    torch.testing.assert_close(low + extent, points.amax(1))
    low, extent = scene_frame(points, 0.005)
    ordered = points.sort(1).values
    torch.testing.assert_close(low, ordered[:, 5])
    torch.testing.assert_close(low + extent, ordered[:, 994])
    assert scene_frame(points[:, :1])[1].min() > 0


def test_stages_refine_and_do_not_pull_at_earlier_centres() -> None:
    head, feats = build(), scenes()
    for regressor in head.regressors:
        torch.nn.init.zeros_(regressor[-1].weight)
        regressor[-1].bias.data[:3] = torch.tensor([.5, 0., -.25])
    first, second = head(feats)
    start, _ = head.proposals(*(x[:, None] for x in scene_frame(feats['sa_xyz'][0])))
    torch.testing.assert_close(first.boxes[..., :3], start + torch.tensor([.5, 0., -.25]))
    torch.testing.assert_close(second.boxes[..., :3], first.boxes[..., :3] + torch.tensor([.5, 0., -.25]))
    torch.testing.assert_close(second.boxes[..., 3:6], torch.full((2, 7, 3), .8))
    second.boxes.sum().backward()
    assert head.regressors[0][-1].bias.grad is None and head.regressors[1][-1].bias.grad.any()


@pytest.mark.parametrize('bins', [0, 12])
def test_losses_reach_every_parameter(bins: int) -> None:
    head = build(num_dir_bins=bins, criterion=TURNED if bins else CRITERION)
    losses = head.loss([], scenes(), samples_of(*SAMPLES))
    names = ['cls', 'center', 'size', 'iou'] + ['dir_cls', 'dir_res'] * bool(bins)
    assert set(losses) == {f'{stage}loss_{name}' for stage in ('d0.', '') for name in names}
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('bins', [0, 12])
def test_scenes_without_objects_train(bins: int) -> None:
    """Property 7."""
    head = build(num_dir_bins=bins, criterion=TURNED if bins else CRITERION)
    losses = head.loss([], scenes(), samples_of(([], []), ([], [])))
    assert all(torch.isfinite(v) and (v > 0) == name.endswith('loss_cls') for name, v in losses.items())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_predictions_and_the_switch_for_suppression() -> None:
    logits = torch.tensor([[[4., 0, 0, 0], [3., 0, 0, 0], [0., 5, 0, 0], [0, 0, 0, 9.]]])
    boxes = torch.tensor([[[0., 0, 1, 1, 1, 2, 0], [.1, 0, 1, 1, 1, 2, 0], [0., 0, 1, 1, 1, 2, 0],
                           [5., 5, 1, 1, 1, 1, 0]]])
    meta = [dict(box_type_3d=DepthInstance3DBoxes)]
    found = build().predict_by_feat(BoxQueries(logits, boxes), meta)[0]
    assert found.labels_3d.tolist() == [1, 0, 0]  # the fourth is background
    probability = logits.softmax(-1)[0]
    torch.testing.assert_close(found.scores_3d, probability[[2, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(found.bboxes_3d.gravity_center, boxes[0, [2, 0, 1], :3])
    kept = build(test_cfg=dict(use_nms=True)).predict_by_feat(BoxQueries(logits, boxes), meta)[0]
    assert sorted(kept.labels_3d.tolist()) == [0, 1]
    for use_nms in (False, True):
        strict = build(test_cfg=dict(score_thr=.999, use_nms=use_nms))
        assert len(strict.predict_by_feat(BoxQueries(logits, boxes), meta)[0]) == 0


def test_yaw_is_the_best_bin_with_its_residual() -> None:
    head = build(num_dir_bins=4, criterion=TURNED)
    values = torch.zeros(1, 1, 6 + 8)
    values[..., 6 + 2], values[..., 6 + 4 + 2] = 3., .5
    box = head._boxes(torch.zeros(1, 1, 4), values, torch.zeros(1, 1, 3))
    assert box.boxes[0, 0, 6].item() == pytest.approx(math.pi + .5 * math.pi / 4)
    sample = head.eval().predict([], scenes(), samples_of(*SAMPLES))[0]
    assert sample.bboxes_3d.with_yaw and sample.bboxes_3d.tensor.shape[1] == 7


def toy(samples: int, generator: torch.Generator) -> tuple[dict[str, list[Tensor]], list[Det3DDataSample]]:
    """Scenes of two boxes, ten seeds in each and ten elsewhere; features tell whether a seed is in a box, and which."""
    centre = torch.rand(samples, 2, 3, generator=generator) * torch.tensor([4., 4., .2]) + torch.tensor([0., 0., .5])
    size = .6 + .6 * torch.rand(samples, 2, 3, generator=generator)
    label = torch.randint(0, 2, (samples, 2), generator=generator)
    inside = centre[:, :, None] + size[:, :, None] * (torch.rand(samples, 2, 10, 3, generator=generator) - .5)
    other = torch.rand(samples, 10, 3, generator=generator) * torch.tensor([5., 5., 1.]) - torch.tensor([.5, .5, 0.])
    feature = torch.zeros(samples, 8, 30)
    feature[:, 0, :20], feature[:, 1, :20] = 1, label.repeat_interleave(10, 1).float()
    cloud = torch.cat([inside.flatten(1, 2), other], 1)
    boxes = torch.cat([centre, size, torch.zeros(samples, 2, 1)], -1)
    return dict(sa_xyz=[cloud], fp_xyz=[cloud], fp_features=[feature]), samples_of(*zip(boxes.tolist(), label.tolist()))


def test_learns_to_find_each_object_once() -> None:
    """Property 6 in small: on new scenes every object is found, and few of the best boxes are duplicates."""
    generator = torch.Generator().manual_seed(3)
    head = build(num_classes=2, embed_dims=32, num_proposals=9, num_heads=4, ffn_channels=32,
                 criterion=CRITERION | {'no_object_weight': .5})
    optimizer = torch.optim.AdamW(head.parameters(), 4e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(head.loss([], *toy(8, generator)).values()).backward()
        optimizer.step()
    feats, truth = toy(50, generator)
    recall, best = 0, []
    for found, sample in zip(head.eval().predict([], feats, truth), truth):
        overlap = DepthInstance3DBoxes.overlaps(sample.gt_instances_3d.bboxes_3d, found.bboxes_3d)
        recall += int((overlap.amax(1) > .25).sum())
        best += zip(found.scores_3d.tolist(), duplicates(found.bboxes_3d, found.scores_3d, found.labels_3d).tolist())
    again = sum(twice for _, twice in sorted(best, reverse=True)[:100])
    assert recall > 90 and again < 30, (recall, again)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(gather='near'), "gather is 'near'; it can be 'local' or 'global'"),
    (dict(embed_dims=15), 'embed_dims=15 is no multiple of bbox_head.num_heads=2'),
    (dict(scene_quantile=.5), 'scene_quantile=0.5 must be at least 0'),
    (dict(num_proposals=0), 'num_proposals=0 must be at least 1'),
    (dict(proposals=dict(z_range=(.5, .3))), r'got z_range=\(0.5, 0.3\)'),
])
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_too_few_seeds() -> None:
    with pytest.raises(ValueError, match='num_neighbors=5, but the backbone gives 4 seeds; set it to 4 or less'):
        build()(scenes(2, 4))
    assert len(build(gather='global')(scenes(2, 4))) == 2
