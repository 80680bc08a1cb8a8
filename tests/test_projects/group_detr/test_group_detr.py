"""Groups of queries: equal to separate passes, apart from each other, averaged, and gone in evaluation."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import detr_head
from mmdet.models.layers import CdnQueryGenerator
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmpapers.layers import query_sets, set_matching
from mmpapers.projects.group_detr import group_detr
from mmpapers.projects.group_detr.group_detr import (
    GroupConditionalDETR,
    GroupDABDETR,
    GroupDeformableDETR,
    GroupDINO,
    GroupMatchingMixin,
)

pytestmark = pytest.mark.det
GROUPS, QUERIES = 3, 6
COUNTS = (3, 0, 2)


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(losses.values())


def own_modules(model: nn.Module, group: int) -> dict[str, nn.Module]:
    """What a group has for itself, by the base's names."""
    names = [name.replace('-', '.') for name in model.query_groups[0]]
    if group == 0:
        return {name: model.get_submodule(name) for name in names}
    return dict(zip(names, model.query_groups[group - 1].values()))


def disturb(model: nn.Module, group: int) -> None:
    """Change everything that decides the queries of a group."""
    with torch.no_grad():
        for module in own_modules(model, group).values():
            for parameter in module.parameters():
                parameter += .3 * torch.randn_like(parameter)


def leak(model: nn.Module, batch: tuple, decoded: Callable, changed: int) -> list[float]:
    """How far the decoder's output of every group moves when one group's queries change."""
    with torch.no_grad():
        before = decoded(model, batch)
        disturb(model, changed)
        return [float((new - old).abs().max()) for new, old in zip(decoded(model, batch), before, strict=True)]


def seeded_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all denoising queries the same noise."""
    call = CdnQueryGenerator.__call__

    def same(self: CdnQueryGenerator, *args: Any) -> tuple:
        torch.manual_seed(11)
        return call(self, *args)
    monkeypatch.setattr(CdnQueryGenerator, '__call__', same)


def test_registered() -> None:
    for cls in (GroupConditionalDETR, GroupDABDETR, GroupDeformableDETR, GroupDINO):
        assert MODELS.get(f'mmpapers.{cls.__name__}') is cls


@pytest.mark.parametrize('attention', ['fold', 'mask'])
def test_equals_separate_passes_of_the_base(kind: str, attention: str, make: Callable, batch: Callable,
                                            losses: Callable) -> None:
    """Values and gradients are those of K networks that share all but their queries, averaged."""
    grouped, base = make(kind, num_query_groups=GROUPS, attention=attention), make(kind)
    found = losses(grouped, batch(*COUNTS))
    total(found).backward()
    torch.manual_seed(7)
    passes = []
    for group in range(GROUPS):
        modules = own_modules(grouped, group)
        for name, module in modules.items():
            base.get_submodule(name).load_state_dict(module.state_dict())
        passes.append(base.loss(*batch(*COUNTS)))
        (total(passes[-1]) / GROUPS).backward()
        for name, module in modules.items():
            for (key, ours), theirs in zip(module.named_parameters(), base.get_submodule(name).parameters()):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=f'{group} {name} {key}')
                theirs.grad = None
    assert list(found) == list(passes[0])
    for name, value in found.items():
        mean = sum(each[name] for each in passes) / GROUPS
        torch.testing.assert_close(value, mean.reshape(value.shape), rtol=1e-5, atol=1e-6, msg=name)
    shared = dict(grouped.named_parameters())
    for name, parameter in base.named_parameters():
        if not name.startswith(tuple(own_modules(grouped, 0))):
            torch.testing.assert_close(shared[name].grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize('changed', [0, 1])
def test_groups_do_not_reach_each_other(kind: str, changed: int, make: Callable, batch: Callable, decoded: Callable
                                        ) -> None:
    moved = leak(make(kind, num_query_groups=GROUPS), batch(*COUNTS), decoded, changed)
    assert moved[changed] > .01
    assert max(distance for group, distance in enumerate(moved) if group != changed) < 1e-6


def scrambled(forward: Callable[..., Tensor], sets: query_sets.QuerySets) -> Callable[..., Tensor]:
    """Negative control: groups go to the batch axis, but the shapes of before the split are kept on."""
    def attend(attn_mask: Tensor | None = None, **arguments: Any) -> Tensor:
        per_query = {name: torch.cat(value.chunk(len(sets.sets), 1)).reshape(value.shape)
                     for name, value in arguments.items() if name in ('query', 'key', 'value', 'query_pos', 'key_pos')}
        return forward(**{**arguments, **per_query})
    return attend


def test_the_leakage_test_catches_mixed_groups(kind: str, make: Callable, batch: Callable, decoded: Callable,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_sets, '_folded', scrambled)
    moved = leak(make(kind, num_query_groups=GROUPS), batch(*COUNTS), decoded, 1)
    assert moved[0] > 1e-3 and moved[2] > 1e-3


def test_one_group_is_the_base_to_the_bit(kind: str, make: Callable, batch: Callable, losses: Callable) -> None:
    grouped, base = make(kind, num_query_groups=1), make(kind)
    assert list(grouped.state_dict()) == list(base.state_dict())
    found, expected = (losses(model, batch(*COUNTS)) for model in (grouped, base))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    total(found).backward()
    total(expected).backward()
    for ours, theirs in zip(grouped.parameters(), base.parameters(), strict=True):
        assert torch.equal(ours, theirs) and (ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad))


@pytest.mark.parametrize('counts', [COUNTS, (0, 0), (2, 14)])
def test_every_group_matches_every_object_once(kind: str, counts: tuple[int, ...], make: Callable, batch: Callable,
                                               losses: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    matched, normalisers = [], []
    solve, reduce = set_matching.match, detr_head.reduce_mean
    monkeypatch.setattr(set_matching, 'match', lambda *args: matched.append(solve(*args)) or matched[-1])
    monkeypatch.setattr(detr_head, 'reduce_mean', lambda value: normalisers.append(float(value)) or reduce(value))
    losses(make(kind, num_query_groups=GROUPS), batch(*counts))
    decoder = matched[0].unflatten(1, (len(counts), GROUPS))  # (layers, images, groups, queries)
    queries = 2 * QUERIES if kind == 'patterns' else QUERIES
    assert len(decoder) == 2 and decoder.shape[-1] == queries
    for layer, (image, count), group in itertools.product(range(2), enumerate(counts), range(GROUPS)):
        objects = decoder[layer, image, group][decoder[layer, image, group] > 0]
        assert len(objects) == len(objects.unique()) == min(queries, count)
        if count <= queries:
            assert set(objects.tolist()) == set(range(1, count + 1))
    pairs = GROUPS * sum(min(queries, count) for count in counts)
    assert int((decoder[0] > 0).sum()) == pairs
    assert set(normalisers[:2]) == {pairs}, 'what processes average is the number of pairs of all groups'


@pytest.mark.parametrize('counts', [COUNTS, (0, 0)])
def test_equal_groups_lose_as_much_as_one(kind: str, counts: tuple[int, ...], make: Callable, batch: Callable,
                                          losses: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded_noise(monkeypatch)
    grouped, base = make(kind, num_query_groups=GROUPS), make(kind)
    for group in range(1, GROUPS):
        for name, module in own_modules(grouped, group).items():
            module.load_state_dict(base.get_submodule(name).state_dict())
    found, expected = (losses(model, batch(*counts)) for model in (grouped, base))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize('counts', [(0, 0), (0, 14)])
def test_few_and_many_objects_train_everything(kind: str, counts: tuple[int, ...], make: Callable, batch: Callable,
                                               losses: Callable) -> None:
    model = make(kind, num_query_groups=GROUPS)
    found = losses(model, batch(*counts))
    total(found).backward()
    assert all(torch.isfinite(value).all() for value in found.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(('synced', 'mean', 'expected'), [
    (False, 9., 1 / 4), (True, 0., 1 / 4), (True, .125, 1 / 4), (True, .5, 2 / 4), (True, 1., 1.), (True, 9., 1.)])
def test_mean_over_processes(synced: bool, mean: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No objects here, ``mean`` on average over processes: max(4 mean, 1) was divided by, 4 max(mean, 1) is meant."""
    monkeypatch.setattr(group_detr, 'reduce_mean', lambda value: torch.full_like(value, mean))
    head = GroupMatchingMixin()
    head.sync_cls_avg_factor = synced
    assert head._mean_of_few(torch.zeros(1), 0, 4) == expected


def test_evaluates_as_the_base(kind: str, make: Callable, batch: Callable) -> None:
    """Same predictions, same shapes in the decoder, and no use of what other groups own."""
    grouped, base = make(kind, num_query_groups=GROUPS).eval(), make(kind).eval()
    with torch.no_grad():
        for parameter in grouped.query_groups.parameters():
            parameter.fill_(torch.nan)
        shapes = []
        for model in (grouped, base):
            model.decoder.layers[0].self_attn.register_forward_pre_hook(
                lambda module, args, kwargs: shapes.append(kwargs['query'].shape), with_kwargs=True)
        found, expected = (model.predict(*batch(1, 1)) for model in (grouped, base))
    assert shapes[0] == shapes[1] and shapes[0][:2] == (2, 2 * QUERIES if kind == 'patterns' else QUERIES)
    for one, other in zip(found, expected, strict=True):
        for field in ('scores', 'bboxes', 'labels'):
            assert torch.equal(one.pred_instances[field], other.pred_instances[field])


def test_checkpoint_without_groups_is_the_bases(kind: str, make: Callable) -> None:
    grouped, base = make(kind, num_query_groups=GROUPS), make(kind)
    state = grouped.state_dict()
    plain = {name: value for name, value in state.items() if not name.startswith(query_sets.TRAINING_ONLY)}
    base.load_state_dict(plain, strict=True)
    missing, unexpected = grouped.load_state_dict(plain, strict=False)
    assert not unexpected and missing == [name for name in state if name not in plain]


@pytest.mark.parametrize(('init', 'settings'), [
    (True, {}), (False, dict(bbox_head=dict(num_classes=1))), (False, dict(num_queries=1))])
def test_groups_start_apart(kind: str, init: bool, settings: dict, make: Callable) -> None:
    """No two groups share a row of anything that is drawn at random, and all are drawn from one distribution."""
    model = make(kind, init=False, num_query_groups=4, **settings)
    if init:
        model.init_weights()
    for name in own_modules(model, 0):
        for key, first in own_modules(model, 0)[name].state_dict().items():
            values = [own_modules(model, group)[name].state_dict()[key] for group in range(4)]
            assert all(torch.equal(first.flatten().sort()[0], value.flatten().sort()[0]) for value in values)
            if name == 'query_embedding' and len(first) > 1:
                assert all(torch.equal(first.sort(0)[0], value.sort(0)[0]) for value in values)
            if first.numel() < 16 or (first == first.flatten()[0]).all():
                continue  # so few can come in the same order by chance
            rows = torch.cat(values).reshape(4 * len(first), -1) if first.dim() > 1 else torch.stack(values)
            assert len(rows.unique(dim=0)) == len(rows), f'{name}.{key}'


def test_same_seed_same_base_for_any_number_of_groups(kind: str, make: Callable) -> None:
    base = make(kind).state_dict()
    state = make(kind, num_query_groups=GROUPS).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in base.items())


def test_survives_a_deep_copy(make: Callable, batch: Callable, losses: Callable) -> None:
    """As the hook for exponential moving averages makes one: a copy that shares nothing."""
    model = make('dab', num_query_groups=GROUPS)
    twin = copy.deepcopy(model)
    found, expected = (losses(each, batch(*COUNTS)) for each in (twin, model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    disturb(twin, 1)
    assert torch.equal(total(losses(model, batch(*COUNTS))), total(expected))
    assert not torch.equal(total(losses(twin, batch(*COUNTS))), total(expected))


def decoder_inputs(model: nn.Module, batch: tuple, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reaches the decoder in a training step."""
    seen = {}
    forward = type(model).forward_decoder

    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> dict:
        seen.update(kwargs)
        return forward(self, *args, **kwargs)
    monkeypatch.setattr(type(model), 'forward_decoder', watched)
    torch.manual_seed(7)
    seen['losses'] = model.loss(*batch)
    return seen


@pytest.mark.parametrize('shared', [True, False])
def test_proposals(shared: bool, make: Callable, batch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared ones are computed once for all groups; otherwise every group has its own."""
    model = make('dino', num_query_groups=GROUPS, share_proposals=shared)
    branches = [model.bbox_head.cls_branches[-1], model.bbox_head.reg_branches[-1]]
    calls = []
    for branch in branches:
        branch.forward = (lambda forward: lambda value: calls.append(1) or forward(value))(branch.forward)
    wrapped = [branch.forward for branch in branches]
    seen = decoder_inputs(model, batch(*COUNTS), monkeypatch)
    references = seen['query_sets'].split(seen['reference_points'], 1).values()
    proposals = [each[:, -QUERIES:] for each in references]
    assert len(calls) == len(branches), "the base's heads run once; further groups have their own or none"
    assert [branch.forward for branch in branches] == wrapped, 'what stood there before is put back'
    assert 'gen_encoder_output_proposals' not in vars(model)
    for one, other in itertools.combinations(proposals, 2):
        assert torch.equal(one, other) == shared
    names = set(own_modules(model, 0))
    assert ('memory_trans_fc' in names) is not shared
    assert {'query_embedding', 'dn_query_generator.label_embedding'} <= names
    if shared:
        expected = make('dino').loss(*batch(*COUNTS))
        for name in ('enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'):
            torch.testing.assert_close(seen['losses'][name], expected[name])
        assert len({float(value.detach()) for value in seen['losses'].values()}) > 3


def test_denoising_of_every_group_is_its_own(make: Callable, batch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is drawn anew for each group, and its labels are embedded by its own table."""
    model = make('dino', num_query_groups=GROUPS)
    seen = decoder_inputs(model, batch(*COUNTS), monkeypatch)
    sets = seen['query_sets']
    noisy = [each[:, :-QUERIES] for each in sets.split(seen['reference_points'], 1).values()]
    assert noisy[0].shape[1] == sets.sets[0].size - QUERIES > 0
    assert seen['dn_mask'] is None and all(each.mask is sets.sets[0].mask is not None for each in sets.sets)
    for one, other in itertools.combinations(noisy, 2):
        assert not torch.equal(one[0], other[0]), 'the first image has objects, hence noise'
    for group, part in enumerate(sets.split(seen['query'], 1).values()):
        table = own_modules(model, group)['dn_query_generator.label_embedding'].weight
        distance = torch.cdist(part[0, :-QUERIES], table).min(1)[0]
        assert float(distance.detach().max()) < 1e-3
    base = decoder_inputs(make('dino'), batch(*COUNTS), monkeypatch)
    assert torch.equal(base['reference_points'], next(iter(sets.split(seen['reference_points'], 1).values())))


@pytest.mark.parametrize(('kind', 'settings', 'message'), [
    ('dab', dict(num_query_groups=0), r'num_query_groups=0 must be 1 or more'),
    ('dino', dict(num_query_groups=-1), r'num_query_groups=-1 must be'),
    ('two_stage', dict(num_query_groups=2, share_proposals=True), r'no learned queries. Take share_proposals=False'),
    ('deformable', dict(num_query_groups=2, share_proposals=True), r'share_proposals=True is for two-stage detectors'),
    ('conditional', dict(num_query_groups=2, share_proposals=True), r'Remove share_proposals'),
    ('dab', dict(num_query_groups=2, attention='both'), r"attention='both'; take 'fold'"),
])
def test_errors(kind: str, settings: dict, message: str, make: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **settings)
