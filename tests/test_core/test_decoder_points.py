"""Foreign boxes in a decoder: what they give, that nobody else sees them, and which detectors can take them."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmdet.models.detectors import DABDETR, DDQDETR, DETR, DINO, DeformableDETR, GroundingDINO
from mmdet.models.layers import inverse_sigmoid
from torch import Tensor, nn

from mmpapers.layers import decoder_points
from mmpapers.layers.decoder_points import Decoded, decoding
from mmpapers.layers.query_sets import QuerySet, QuerySets, QuerySetsMixin

pytestmark = pytest.mark.core
KINDS = ('dab', 'deformable', 'two_stage', 'dino')


def boxes(*shape: int) -> Tensor:
    return torch.cat([.2 + .6 * torch.rand(*shape, 2), .1 + .3 * torch.rand(*shape, 2)], -1)


@pytest.fixture
def data(tiny_pair: Callable) -> Callable[[nn.Module], dict]:
    """Preprocessed inputs of two images for a model."""
    return lambda model: model.data_preprocessor(tiny_pair('query')[2](), True)


def run(model: nn.Module, data: Callable) -> list[Tensor]:
    with torch.no_grad():
        return list(model(**data(model), mode='tensor'))


def close(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def separately(model: nn.Module, data: Callable, points: Tensor) -> tuple[Tensor, Tensor]:
    """The reference: a decoder call with these boxes and nothing else."""
    forward, seen = model.forward_decoder, {}
    model.forward_decoder = lambda **inputs: seen.update(inputs) or forward(**inputs)
    run(model, data)
    del model.forward_decoder
    with torch.no_grad():
        inputs = {**seen, **decoder_points.family(model)(model, points.expand(2, -1, -1))}
        return model.bbox_head.forward(**model.forward_decoder(**inputs))


@pytest.mark.parametrize('attention', ['fold', 'mask'])
@pytest.mark.parametrize('kind', KINDS)
def test_equals_a_decoder_call_for_each_set(kind: str, attention: str, tiny_detr: Callable, data: Callable) -> None:
    model = tiny_detr(kind).eval()
    plain, points = run(model, data), dict(some=boxes(8), few=boxes(3))
    with decoding(model, points, attention) as decoded:
        own = run(model, data)
    close(own, plain)
    assert set(decoded.outputs) == set(points)
    for name, values in points.items():
        close(decoded.outputs[name], separately(model, data, values))
        assert decoded.outputs[name][1].shape == (len(plain[0]), 2, len(values), 4)
        assert (decoded.outputs[name][1] - values).abs().amax() > 1e-3, 'the decoder leaves boxes as they are'


@pytest.mark.parametrize('kind', KINDS)
def test_sets_do_not_influence_each_other(kind: str, tiny_detr: Callable, data: Callable) -> None:
    model, kept, found = tiny_detr(kind).eval(), boxes(8), []
    for _ in range(2):
        with decoding(model, dict(kept=kept, other=boxes(8))) as decoded:
            found.append((run(model, data), decoded.outputs))
    for one, other in zip(found[0][0], found[1][0]):
        assert torch.equal(one, other)
    assert torch.equal(found[0][1]['kept'][0], found[1][1]['kept'][0])
    assert not torch.equal(found[0][1]['other'][0], found[1][1]['other'][0])


@pytest.mark.parametrize('kind', [*KINDS, 'conditional'])
def test_own_queries_and_where_they_began(kind: str, tiny_detr: Callable, data: Callable) -> None:
    model = tiny_detr(kind).train()
    forward, told = model.bbox_head.forward, []
    model.bbox_head.forward = lambda *args, **kwargs: told.append(forward(*args, **kwargs)) or told[-1]
    torch.manual_seed(1)
    with decoding(model, {}, own=True) as decoded:
        model(**data(model), mode='loss')
    assert len(told) == 1, 'what listens to the head hears of the detector only'
    close(decoded.own, [value[:, :, -model.num_queries:] for value in told[0]])
    assert decoded.own[0].requires_grad
    assert not decoded.outputs
    if kind in ('deformable', 'conditional'):
        assert decoded.anchors is None
    else:
        assert decoded.anchors.shape[::2] == (2, 4)
        assert not decoded.anchors.requires_grad
    if kind == 'dab':
        torch.testing.assert_close(decoded.anchors[0], model.query_embedding.weight.detach().sigmoid())
    if kind == 'dino':
        assert told[0][0].shape[2] > model.num_queries, 'no denoising queries'


@pytest.mark.parametrize('attention', ['fold', 'mask'])
def test_denoising_queries_keep_their_rules(attention: str, tiny_detr: Callable, data: Callable) -> None:
    losses = []
    for points in ({}, dict(some=boxes(5))):
        model = tiny_detr('dino').train()
        torch.manual_seed(2)
        with decoding(model, points, attention):
            losses.append(model(**data(model), mode='loss'))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-5, atol=1e-5)


class Paired(QuerySetsMixin, DABDETR):
    """A detector with two sets of queries: its own twice."""

    def pre_decoder(self, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
        inputs, head = super().pre_decoder(*args, **kwargs)
        for name in ('query', 'query_pos'):
            inputs[name] = inputs[name].repeat(1, 2, 1)
        sets = QuerySets([QuerySet('one', self.num_queries), QuerySet('two', self.num_queries)])
        return {**inputs, 'query_sets': sets}, head


@pytest.mark.parametrize('points', [False, True])
def test_sets_of_the_detector_itself_stay_apart(points: bool, tiny_detr: Callable, data: Callable) -> None:
    model = tiny_detr('dab').eval()
    single = run(model, data)
    model.__class__, model.attention = Paired, 'fold'
    further = dict(some=boxes(4)) if points else {}
    with decoding(model, further, own=True) as decoded:
        both = run(model, data)
    close(decoded.own, single)
    close(both, [value.repeat(1, 1, 2, 1) for value in single])
    assert set(decoded.outputs) == set(further)


def test_points_may_differ_between_images(tiny_detr: Callable, data: Callable) -> None:
    model, points = tiny_detr('dab').eval(), boxes(2, 5)
    with decoding(model, dict(each=points, first=points[0])) as decoded:
        run(model, data)
    for each, first in zip(decoded.outputs['each'], decoded.outputs['first']):
        torch.testing.assert_close(each[:, 0], first[:, 0])
        assert not torch.allclose(each[:, 1], first[:, 1])


def test_everything_is_put_back(tiny_detr: Callable, data: Callable) -> None:
    model, into = tiny_detr('dab').eval(), Decoded()
    places = [model, *(layer.self_attn for layer in model.decoder.layers)]
    with contextlib.suppress(KeyError), decoding(model, dict(some=boxes(3)), into=into) as decoded:
        assert decoded is into
        run(model, data)
        raise KeyError
    assert into.outputs
    assert not any({'forward', 'forward_decoder'} & set(place.__dict__) for place in places)
    before = model.forward_decoder = lambda **inputs: type(model).forward_decoder(model, **inputs)
    with decoding(model, dict(some=boxes(3))):
        run(model, data)
    assert model.forward_decoder is before


def test_inputs_of_each_family(tiny_detr: Callable) -> None:
    points = boxes(2, 3)
    found = decoder_points.dab_inputs(tiny_detr('dab'), points)
    torch.testing.assert_close(found['query_pos'].sigmoid(), points)
    assert not found['query'].any()
    assert found['query'].shape == (2, 3, 16)

    model = tiny_detr('deformable')
    found = decoder_points.deformable_inputs(model, points)
    position, content = model.query_embedding.weight.mean(0).split(16)
    torch.testing.assert_close(found, dict(query_pos=position.expand(2, 3, 16), query=content.expand(2, 3, 16),
                                           reference_points=points[..., :2]))

    model = tiny_detr('two_stage')  # as mmdet makes them of its proposals
    found = decoder_points.deformable_inputs(model, points)
    made = model.pos_trans_norm(model.pos_trans_fc(model.get_proposal_pos_embed(inverse_sigmoid(points))))
    torch.testing.assert_close(found, dict(query_pos=made[..., :256], query=made[..., 256:], reference_points=points))
    model.query_embedding = nn.Embedding(4, 256)  # mixed selection: learned content
    found = decoder_points.deformable_inputs(model, points)
    torch.testing.assert_close(found['query_pos'], made[..., :256])
    torch.testing.assert_close(found['query'], model.query_embedding.weight.mean(0).expand(2, 3, -1))

    model = tiny_detr('dino')
    torch.testing.assert_close(decoder_points.dino_inputs(model, points), dict(
        query=model.query_embedding.weight.mean(0).expand(2, 3, -1), reference_points=points))


def test_who_can_decode_boxes(tiny_detr: Callable) -> None:
    for kind, make in ((DABDETR, 'dab_inputs'), (Paired, 'dab_inputs'), (DeformableDETR, 'deformable_inputs'),
                       (DINO, 'dino_inputs')):
        assert decoder_points.family(kind.__new__(kind)).__name__ == make
    for kind in (DETR, DDQDETR, GroundingDINO):
        with pytest.raises(TypeError, match='cannot decode given boxes; DAB-DETR, Deformable DETR and DINO can'):
            decoder_points.family(kind.__new__(kind))
    model = tiny_detr('conditional')
    with pytest.raises(TypeError, match='Conditional DETR are learned vectors'), decoding(
            model, dict(some=boxes(3))):
        pass
    assert 'forward_decoder' not in model.__dict__
