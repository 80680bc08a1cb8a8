"""Query sets: folding, masking and separate calls agree; sets never meet; everything is put back afterwards."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.layers.transformer.utils import ConditionalAttention
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySet, QuerySets, QuerySetsMixin, separated, standing_in

pytestmark = pytest.mark.core
WIDTH = 8


class Layer(nn.Module):
    """The part of a decoder layer in which queries meet, called as mmdet calls it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conditional = kind == 'conditional'
        self.self_attn = ConditionalAttention(WIDTH, 2) if self.conditional else MultiheadAttention(
            WIDTH, 2, batch_first=True)

    def forward(self, query: Tensor, query_pos: Tensor, mask: Tensor | None) -> Tensor:
        if self.conditional:
            return query + self.self_attn(query=query, key=query, query_pos=query_pos, key_pos=query_pos,
                                          attn_mask=mask)
        return self.self_attn(query=query, key=query, value=query, query_pos=query_pos, key_pos=query_pos,
                              attn_mask=mask, spatial_shapes='as mmdet passes on')


class Decoder(nn.Module):
    """Two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(kind) for _ in range(2))

    def forward(self, query: Tensor, query_pos: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            query = layer(query, query_pos, mask)
        return query


def inner_mask(size: int) -> Tensor:
    """Rules inside a set: nobody looks at a later query."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def make(sizes: list[int], masked: tuple[int, ...] = ()) -> QuerySets:
    return QuerySets([QuerySet(f'set{i}', size, inner_mask(size) if i in masked else None)
                      for i, size in enumerate(sizes)])


def apart(decoder: Decoder, sets: QuerySets, query: Tensor, pos: Tensor) -> Tensor:
    """The reference: one call of the decoder for each set."""
    return torch.cat([decoder(query[:, part], pos[:, part], each.mask)
                      for each, part in zip(sets.sets, sets.slices().values()) if each.size], 1)


@pytest.fixture(params=['mmcv', 'conditional'])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(0)
    return Decoder(request.param)


@pytest.mark.parametrize(('sizes', 'masked'), [
    ([4, 4, 4], ()), ([2, 2, 6, 6, 1], ()), ([5, 3, 3], (1, 2)), ([0, 4, 0, 3], ()), ([5], (0, ))])
def test_modes_equal_separate_calls(decoder: Decoder, sizes: list[int], masked: tuple[int, ...]) -> None:
    sets = make(sizes, masked)
    query, pos = (torch.randn(3, sets.total, WIDTH, requires_grad=True) for _ in range(2))
    expected = apart(decoder, sets, query, pos)
    slope = torch.randn_like(expected)
    slopes = torch.autograd.grad(expected, [query, pos], slope)
    for mode in ('fold', 'mask'):
        with separated(decoder, sets, mode):
            found = decoder(query, pos)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(found, [query, pos], slope), slopes, atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 4), min_size=2, max_size=5).filter(any), data=st.data())
def test_modes_agree_for_any_sets(sizes: list[int], data: st.DataObject) -> None:
    masked = tuple(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    torch.manual_seed(0)
    decoder, sets = Decoder('mmcv'), make(sizes, masked)
    query, pos = torch.randn(2, 2, sets.total, WIDTH)
    results = [apart(decoder, sets, query, pos)]
    for mode in ('fold', 'mask'):
        with separated(decoder, sets, mode):
            results.append(decoder(query, pos))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[2], results[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('mode', ['fold', 'mask'])
def test_one_set_does_not_reach_another(decoder: Decoder, mode: str) -> None:
    sets = make([3, 5, 5])
    query, pos = torch.randn(2, 2, sets.total, WIDTH)
    with separated(decoder, sets, mode):
        before = sets.split(decoder(query, pos), 1)
        changed = query.clone()
        changed[:, sets.slices()['set1']] += 1
        after = sets.split(decoder(changed, pos), 1)
    torch.testing.assert_close(after['set0'], before['set0'], atol=1e-6, rtol=0)
    torch.testing.assert_close(after['set2'], before['set2'], atol=1e-6, rtol=0)
    assert (after['set1'] - before['set1']).abs().min(-1)[0].max() > 1e-3


def test_fold_calls_attention_once_for_equal_sets(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    attention = decoder.layers[0].self_attn
    forward = attention.forward

    def counting(query: Tensor, **kwargs: object) -> Tensor:
        batches.append(len(query))
        return forward(query=query, **kwargs)
    monkeypatch.setattr(attention, 'forward', counting)
    sets = make([2, 2, 2, 5])
    with separated(decoder, sets):
        decoder(*torch.randn(2, 3, sets.total, WIDTH))
    assert batches == [9, 3]
    assert attention.forward is counting, 'what stood in for the forward before stands there again'


@pytest.mark.parametrize('mode', ['fold', 'mask'])
def test_everything_is_put_back(decoder: Decoder, mode: str) -> None:
    before = [dict(layer.self_attn.__dict__) for layer in decoder.layers]
    with pytest.raises(RuntimeError, match='in between'), separated(decoder, make([2, 3]), mode):
        assert 'forward' in decoder.layers[1].self_attn.__dict__
        raise RuntimeError('in between')
    assert [layer.self_attn.__dict__ for layer in decoder.layers] == before
    copy.deepcopy(decoder)


def test_errors(decoder: Decoder) -> None:
    query = torch.randn(2, 6, WIDTH)
    for mode in ('fold', 'mask'):
        with separated(decoder, make([2, 3]), mode):
            with pytest.raises(ValueError, match=r'6 queries and the sets 5 \(set0 2, set1 3\)'):
                decoder(query, query)
            with pytest.raises(ValueError, match='bring their own attention masks'):
                decoder(query[:, :5], query[:, :5], inner_mask(5))
    with pytest.raises(ValueError, match="attention='block'; take 'fold'"), separated(decoder, make([2, 3]), 'block'):
        pass
    with pytest.raises(ValueError, match="attention='both'; take 'fold'"):
        QuerySetsMixin(attention='both')
    with pytest.raises(ValueError, match="same name: \\['a', 'a'\\]"):
        QuerySets([QuerySet('a', 1), QuerySet('a', 2)])


def test_places_and_mask() -> None:
    sets = make([2, 0, 3], masked=(2, ))
    assert sets.total == 5
    assert sets.slices() == dict(set0=slice(0, 2), set1=slice(2, 2), set2=slice(2, 5))
    parts = sets.split(torch.arange(10).view(1, 5, 2), 1)
    assert [parts[name].flatten().tolist() for name in parts] == [[0, 1, 2, 3], [], [4, 5, 6, 7, 8, 9]]
    expected = [[a // 2 != b // 2 if min(a, b) < 2 else b > a for b in range(5)] for a in range(5)]
    assert sets.mask().tolist() == expected


def test_standing_in() -> None:
    model = nn.ModuleDict(dict(head=nn.Sequential(nn.Linear(2, 2), nn.ReLU()), other=nn.Linear(2, 2)))
    own, guest = model.head[0], nn.Linear(2, 3)
    names = list(dict(model.named_parameters()))
    with pytest.raises(RuntimeError, match='in between'), standing_in(model, {'head.0': guest, 'other': nn.ReLU()}):
        assert model.head[0] is guest
        assert model.head(torch.zeros(1, 2)).shape == (1, 3)
        raise RuntimeError('in between')
    assert model.head[0] is own
    assert list(dict(model.named_parameters())) == names
    with pytest.raises(AttributeError), standing_in(model, {'head.1': guest, 'neck': guest}):
        pass
    assert isinstance(model.head[1], nn.ReLU), 'a wrong path changes nothing'


class Base:
    """A detector whose decoder tells what it got."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def forward_decoder(self, query: Tensor, query_pos: Tensor) -> Tensor:
        return self.decoder(query, query_pos)


class Detector(QuerySetsMixin, Base):
    """With query sets."""


def test_mixin(decoder: Decoder) -> None:
    query, sets = torch.randn(1, 5, WIDTH), make([2, 3])
    forward: Callable[..., Tensor] = Detector(decoder, attention='mask').forward_decoder
    assert torch.equal(forward(query, query), decoder(query, query))
    torch.testing.assert_close(forward(query=query, query_pos=query, query_sets=sets),
                               apart(decoder, sets, query, query))
