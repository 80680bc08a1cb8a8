"""H-DETR's detectors: sets that do not meet, evaluation and gradients of the base, tricks, odd sizes, configs."""

from pathlib import Path

import pytest
import torch
from mmdet.models.detectors import DeformableDETR
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.layers.query_sets import TRAINING_ONLY
from mmpapers.projects.h_detr.h_detr import HybridDINO

pytestmark = pytest.mark.det
CONFIGS = Path(__file__).parents[3] / 'projects/h_detr/configs'
KINDS = dict(
    one_stage=dict(as_two_stage=False, mixed_selection=False), two_stage=dict(
        mixed_selection=False, look_forward_twice=False), tricks=dict(), dino=dict())
TOKENS = 80  # 64 + 16, of 64 x 64 images at strides 8 and 16
LAYERS = dict(one_stage=3, two_stage=3, tricks=3, dino=2)


@MODELS.register_module(name='PlainDeformableDETR', force=True)
class PlainDeformableDETR(DeformableDETR):
    """mmdet's, whose embedding of proposals is made for 256 channels, with one for the 32 of the tiny config."""

    @staticmethod
    def get_proposal_pos_embed(proposals: Tensor) -> Tensor:
        return DeformableDETR.get_proposal_pos_embed(proposals, 16)


def config(kind: str, **changes: object) -> ConfigDict:
    """Two levels, so that the smallest images suffice."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / ('h-dino_tiny-cpu.py' if kind == 'dino' else 'h-deformable-detr_tiny-cpu.py'))
    levels = dict(num_levels=2)
    cfg.merge_from_dict(dict(model=dict(
        backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(1, 2)),
        neck=dict(in_channels=[16, 32], num_outs=2), num_feature_levels=2,
        encoder=dict(layer_cfg=dict(self_attn_cfg=levels)), decoder=dict(layer_cfg=dict(cross_attn_cfg=levels)),
        num_queries=6, num_one2many=18, test_cfg=dict(max_per_img=10), **KINDS[kind])))
    cfg.merge_from_dict(dict(model=changes))
    return cfg.model


def plain_config(kind: str) -> ConfigDict:
    """The base detector of mmdet."""
    cfg = config(kind)
    for name in ('num_one2many', 'mixed_selection', 'look_forward_twice', 'k_one2many'):
        cfg.pop(name, None)
        cfg.bbox_head.pop(name, None)
    cfg.type = 'DINO' if kind == 'dino' else 'PlainDeformableDETR'
    cfg.bbox_head.type = 'DINOHead' if kind == 'dino' else 'DeformableDETRHead'
    return cfg


def build(cfg: ConfigDict, weights: nn.Module | None = None) -> nn.Module:
    """A model in training, with random weights everywhere, those of another where it has them."""
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    for branch in model.bbox_head.reg_branches:  # which begin with 0, so that layers would not differ
        nn.init.normal_(branch[-1].weight, std=.1)
    if weights is not None:
        own = model.state_dict()
        assert set(own) <= set(weights.state_dict()) | {name for name in own if name.startswith(TRAINING_ONLY)}
        model.load_state_dict({name: value for name, value in weights.state_dict().items() if name in own},
                              strict=False)
    return model.train()


def batch(model: nn.Module, *counts: int) -> tuple[Tensor, list[DetDataSample]]:
    generator = torch.Generator().manual_seed(1)
    samples = []
    for i, count in enumerate(counts or (3, 2)):
        corner = torch.rand(count, 2, generator=generator) * 35
        sample = DetDataSample(metainfo=dict(img_id=i, img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1., 1.),
                                             batch_input_shape=(64, 64)))
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + 5 + 20 * torch.rand(count, 2, generator=generator)], 1),
            labels=torch.randint(3, (count, ), generator=generator))
        samples.append(sample)
    images = torch.randint(256, (len(samples), 3, 64, 64), generator=generator, dtype=torch.uint8)
    return model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True).values()


def losses(model: nn.Module, *counts: int) -> dict[str, Tensor]:
    images, samples = batch(model, *counts)
    torch.manual_seed(3)  # noise of denoising queries
    return model.loss(images, samples)


def gradients(model: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(found.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize('attention', ['fold', 'mask'])
@pytest.mark.parametrize('kind', list(KINDS))
def test_sets_do_not_reach_one_another(kind: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(config(kind, attention=attention))
    pre_decoder, inputs = model.pre_decoder, {}
    with torch.no_grad():
        images, samples = batch(model)
        maps = model.extract_feat(images)

    def outputs(changed: str | None) -> dict[str, Tensor]:
        """Hidden states of both sets, where the queries of one are changed on their way to the decoder."""
        def change(*args: object, **kwargs: object) -> tuple[dict, dict]:
            decoder, rest = pre_decoder(*args, **kwargs)
            inputs.update(decoder)
            query = decoder['query'].clone()
            part = decoder['query_sets'].slices().get(changed, slice(0))
            query[:, part] += torch.randn_like(query[:, part])
            return {**decoder, 'query': query}, rest
        monkeypatch.setattr(model, 'pre_decoder', change)
        torch.manual_seed(3)
        with torch.no_grad():
            hidden = model.forward_transformer(maps, samples)['hidden_states']
        return inputs['query_sets'].split(hidden, 2)

    before = outputs(None)
    assert before['one2many'].shape[2] == 18
    for changed, other in (('one2one', 'one2many'), ('one2many', 'one2one')):
        after = outputs(changed)
        torch.testing.assert_close(after[other], before[other], atol=1e-6, rtol=0)
        assert (after[changed] - before[changed]).abs().max() > .01


def test_denoising_keeps_its_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matching queries do not see denoising queries; these see the matching ones, and their own group."""
    model = build(config('dino'))
    pre_decoder = model.pre_decoder
    images, samples = batch(model)
    with torch.no_grad():
        maps = model.extract_feat(images)

    def hidden(changed: slice) -> Tensor:
        def change(*args: object, **kwargs: object) -> tuple[dict, dict]:
            decoder, rest = pre_decoder(*args, **kwargs)
            assert decoder['dn_mask'] is None
            decoder['query'] = decoder['query'].clone()
            decoder['query'][:, changed] += 1
            counts.update(rest['dn_meta'])
            return decoder, rest
        monkeypatch.setattr(model, 'pre_decoder', change)
        torch.manual_seed(3)
        with torch.no_grad():
            return model.forward_transformer(maps, samples)['hidden_states']

    counts: dict[str, int] = {}
    before = hidden(slice(0))
    noise = counts['num_denoising_queries']
    size = noise // counts['num_denoising_groups']
    assert before.shape[2] == noise + 6 + 18
    after = hidden(slice(size))  # the first group
    torch.testing.assert_close(after[:, :, size:], before[:, :, size:], atol=1e-6, rtol=0)
    assert (after[:, :, :size] - before[:, :, :size]).abs().max() > .01
    after = hidden(slice(noise, noise + 6))
    assert (after[:, :, :noise] - before[:, :, :noise]).abs().max() > 1e-4
    torch.testing.assert_close(after[:, :, noise + 6:], before[:, :, noise + 6:], atol=1e-6, rtol=0)


@pytest.mark.parametrize('kind', list(KINDS))
def test_evaluates_as_the_plain_detector(kind: str) -> None:
    """With the same weights, less the branch's queries, which leave no other trace."""
    hybrid = build(config(kind))
    base = build(config(kind, num_one2many=0) if kind == 'tricks' else plain_config(kind), hybrid).eval()
    left = {name for name in hybrid.state_dict() if name not in base.state_dict()}
    assert left == ({'query_embedding_one2many.weight'} if kind != 'two_stage' else set())
    assert all(name.startswith(TRAINING_ONLY) for name in left)
    images, samples = batch(base)
    with torch.no_grad():
        expected, found = (model.predict(images, samples) for model in (base, hybrid.eval()))
        for one, other in zip(expected, found):
            assert len(one.pred_instances) > 0
            for field in ('bboxes', 'scores', 'labels'):
                assert torch.equal(one.pred_instances[field], other.pred_instances[field])


@pytest.mark.parametrize('kind', ['one_stage', 'two_stage', 'dino'])
def test_lambda_0_trains_the_base(kind: str) -> None:
    """The same losses and gradients as mmdet's detector, and none for the branch's queries."""
    once = {} if kind == 'dino' else dict(look_forward_twice=False)
    hybrid = build(config(kind, bbox_head=dict(weight_one2many=0.), **once))
    base = build(plain_config(kind), hybrid)
    expected, found = losses(base), losses(hybrid)
    assert set(found) - set(expected) == {name for name in found if 'one2many' in name}
    assert all(found[name] == 0 for name in set(found) - set(expected))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    slopes, further = gradients(base, expected), gradients(hybrid, found)
    for name, slope in slopes.items():
        scale = slope.abs().max().item()
        torch.testing.assert_close(further.pop(name), slope, rtol=1e-3, atol=1e-4 * scale + 1e-6)
    assert not any(slope.any() for slope in further.values())


@pytest.mark.parametrize('kind', ['one_stage', 'two_stage', 'dino'])
def test_no_branch_is_the_base_to_the_bit(kind: str) -> None:
    """``num_one2many=0``, with the head of mmdet or ours; and mmdet's detector with our head."""
    base = build(plain_config(kind))
    expected = losses(base)
    once = {} if kind == 'dino' else dict(look_forward_twice=False)
    cfg = config(kind, num_one2many=0, **once)
    swapped = plain_config(kind)
    swapped.bbox_head = {**swapped.bbox_head, 'type': cfg.bbox_head.type}
    bare = config(kind, num_one2many=0, **once)
    bare.bbox_head = plain_config(kind).bbox_head
    for other in (cfg, swapped, bare):
        found = losses(build(other, base))
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize('kind', list(KINDS))
def test_modes_give_the_same_losses(kind: str) -> None:
    model = build(config(kind))
    fold = losses(model)
    model.attention = 'mask'
    for name, value in losses(model).items():
        torch.testing.assert_close(value, fold[name], rtol=1e-4, atol=1e-5)
    noise = 3 * LAYERS[kind] if kind == 'dino' else 0
    assert len(fold) == 3 * LAYERS[kind] * 2 + noise + (0 if kind == 'one_stage' else 3)
    assert sum('one2many' in name for name in fold) == 3 * LAYERS[kind]


@pytest.mark.parametrize('kind', ['one_stage', 'tricks'])
def test_look_forward_twice(kind: str) -> None:
    """Same values; the second layer's boxes teach the first layer's branch, and the third's do not."""
    slopes, values = {}, {}
    for twice in (True, False):
        model = build(config(kind, look_forward_twice=twice))
        values[twice] = losses(model)
        for name in ('d1.loss_bbox', 'd1.loss_bbox_one2many', 'loss_bbox'):
            parameters = list(model.bbox_head.reg_branches[0].parameters())
            found = torch.autograd.grad(values[twice][name], parameters, retain_graph=True, allow_unused=True)
            slopes[twice, name] = max(0. if slope is None else slope.abs().max().item() for slope in found)
    for name, value in values[True].items():
        torch.testing.assert_close(value, values[False][name], rtol=1e-5, atol=1e-6)
    for name in ('d1.loss_bbox', 'd1.loss_bbox_one2many'):
        assert slopes[True, name] > 1e-4
        assert slopes[False, name] == 0
    assert slopes[True, 'loss_bbox'] == 0


def test_queries_begin_with_the_best_proposals() -> None:
    """Sorted, so that the one-to-one set has those of evaluation; mixed selection gives them learned contents."""
    model = build(config('tricks'))
    images, samples = batch(model)
    with torch.no_grad():
        encoded = model.forward_encoder(**model.pre_transformer(model.extract_feat(images), samples)[0])
        decoder, _ = model.pre_decoder(**encoded)
        evaluated, _ = model.eval().pre_decoder(**encoded)
    learned = torch.cat([model.query_embedding.weight, model.query_embedding_one2many.weight])
    assert torch.equal(decoder['query'], learned.expand(2, -1, -1))
    for name in ('query', 'query_pos', 'reference_points'):
        assert evaluated[name].shape[1] == 6
        torch.testing.assert_close(decoder[name][:, :6], evaluated[name])


@pytest.mark.parametrize('left', [5, 0])
@pytest.mark.parametrize('kind', ['two_stage', 'tricks', 'dino'])
def test_few_tokens(kind: str, left: int) -> None:
    """The branch takes the tokens that are left; every parameter still gets a gradient, as DDP wants."""
    model = build(config(kind, num_queries=TOKENS - left))
    found = losses(model)
    slopes = gradients(model, found)
    assert not [name for name, slope in slopes.items() if slope is None]
    assert all(torch.isfinite(slope).all() for slope in slopes.values())
    assert (found['loss_bbox_one2many'] > 0) == (left > 0)


@pytest.mark.parametrize('kind', list(KINDS))
def test_images_without_objects(kind: str) -> None:
    model = build(config(kind))
    found = losses(model, 0, 0)
    assert all(found[name] == 0 for name in found if 'cls' not in name)
    assert found['loss_cls_one2many'] > 0
    assert not [name for name, slope in gradients(model, found).items() if slope is None]


def test_errors() -> None:
    with pytest.raises(ValueError, match='num_one2many=-1 is negative; 0 trains the base detector'):
        build(config('two_stage', num_one2many=-1))
    with pytest.raises(ValueError, match="attention='folded'; take 'fold'"):
        build(config('two_stage', attention='folded'))
    with pytest.raises(ValueError, match='mixed_selection=True needs model.as_two_stage=True'):
        build(config('one_stage', mixed_selection=True))
    with pytest.raises(ValueError, match='look_forward_twice=True needs model.with_box_refine=True'):
        build(config('one_stage', with_box_refine=False))
    with pytest.raises(ValueError, match=r"scheme='layer' has no one-to-many branch: set model.num_one2many=0"):
        build(config('two_stage', bbox_head=dict(scheme='layer')))
    cfg = config('two_stage')
    cfg.bbox_head = plain_config('two_stage').bbox_head
    with pytest.raises(ValueError, match="'DeformableDETRHead' knows no hybrid matching; take 'mmpapers.HybridDef"):
        build(cfg)
    model = build(config('tricks', num_queries=TOKENS + 1)).eval()
    with pytest.raises(ValueError, match=f'num_queries={TOKENS + 1} proposals .* encoder with {TOKENS} tokens; lower'):
        model.predict(*batch(model))


def test_branch_is_initialised_as_the_base() -> None:
    """DINO draws its content queries from Xavier's distribution, Deformable DETR from a normal one."""
    model = build(config('dino'))
    assert isinstance(model, HybridDINO)
    assert model.query_embedding_one2many.weight.abs().max() <= (6 / (18 + 256)) ** .5
    assert build(config('tricks')).query_embedding_one2many.weight.std().item() == pytest.approx(1, abs=.1)


def test_ladder() -> None:
    """The published steps differ in what they are named after."""
    def step(name: str) -> tuple:
        model = Config.fromfile(CONFIGS / f'{name}_r50_12e_coco.py').model
        layers = [model.encoder.layer_cfg, model.decoder.layer_cfg]
        dropouts = {attention.get('dropout', .1) for layer in layers for key, attention in layer.items()
                    if 'attn' in key} | {layer.ffn_cfg.ffn_drop for layer in layers}
        return ({layer.ffn_cfg.feedforward_channels for layer in layers}, dropouts, model.get('mixed_selection', False),
                model.get('look_forward_twice', False), model.get('num_one2many', 0))
    assert step('deformable-detr') == ({1024}, {.1}, False, False, 0)
    assert step('deformable-detr-ffn2048') == ({2048}, {.1}, False, False, 0)
    assert step('deformable-detr-dp0') == ({2048}, {0.}, False, False, 0)
    assert step('deformable-detr-mixed') == ({2048}, {0.}, True, False, 0)
    assert step('deformable-detr-tricks') == ({2048}, {0.}, True, True, 0)
    assert step('h-deformable-detr') == ({2048}, {0.}, True, True, 1500)
    assert step('h-deformable-detr-no-tricks') == ({2048}, {.1}, False, False, 1500)
