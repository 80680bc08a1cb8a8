"""MaskLearner: the first stage trains masks on the teacher's task loss and touches nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpapers.distill import DistillError, TapError
from mmpapers.projects.maskd.learner import MaskLearner
from mmpapers.projects.maskd.masks import dice_diversity

pytestmark = pytest.mark.det

KINDS = ['dense', 'two_stage', 'segmentor', 'voxel']


@pytest.fixture
def learner(tiny_pair: Callable) -> Callable[..., tuple[MaskLearner, Callable[[], dict]]]:
    """Make a learner for a kind of model, and a function that gives preprocessed batches for its teacher."""
    def make(kind: str, **settings: object) -> tuple[MaskLearner, Callable[[], dict]]:
        _, teacher, batch = tiny_pair(kind)
        init_default_scope(teacher['_scope_'])
        model = MODELS.build(dict(type='mmpapers.MaskLearner', teacher=teacher, checkpoint='random', **settings))
        return model.train(), lambda: model.data_preprocessor(batch(), True)
    return make


@pytest.mark.parametrize('kind', KINDS)
def test_a_step_changes_masks_and_nothing_of_the_teacher(learner: Callable, kind: str) -> None:
    model, data = learner(kind)
    teacher = model.teacher.model
    before, own = copy.deepcopy(teacher.state_dict()), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        total, terms = model.parse_losses(model(**data(), mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert torch.isfinite(total)
    assert 0 < terms['loss_diversity'] <= len(model.masks)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert all(not torch.equal(value, own[name]) for name, value in model.state_dict().items() if name != 'signature')


@pytest.mark.parametrize('kind', KINDS)
def test_a_checkpoint_holds_masks_only(learner: Callable, kind: str) -> None:
    model, _ = learner(kind)
    assert all(name == 'signature' or name.startswith('masks.') for name in model.state_dict())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in model.teacher.model.parameters()}


def test_settings_by_kind_of_model(learner: Callable) -> None:
    detector, _ = learner('dense')
    assert [tuple(mask.tokens.shape) for mask in detector.masks] == [(6, 16)] * 3
    assert all(mask.score is not None for mask in detector.masks)
    segmentor, _ = learner('segmentor')
    assert [tuple(mask.tokens.shape) for mask in segmentor.masks] == [(8, 3)]
    assert segmentor.masks[0].score is None


@pytest.mark.parametrize('kind', KINDS)
def test_open_masks_give_the_teachers_own_losses(learner: Callable, kind: str) -> None:
    """One token per level that lets everything through leaves the teacher's loss as it is."""
    model, data = learner(kind, num_tokens=1, token_weights=False)
    for mask in model.masks:
        mask.forward = lambda feature: torch.ones(len(feature), 1, *feature.shape[2:])
    inputs = data()
    torch.manual_seed(3)
    masked = model(**copy.deepcopy(inputs), mode='loss')
    torch.manual_seed(3)
    plain = model.teacher.model.loss(*copy.deepcopy(inputs).values())
    assert set(masked) == set(plain) | {'loss_diversity'}
    for name, value in plain.items():
        torch.testing.assert_close(masked[name], value)


def test_heads_see_the_weighted_sum_over_masks(learner: Callable) -> None:
    model, data = learner('dense')
    inputs, teacher = data(), model.teacher.model
    with torch.no_grad():
        levels = teacher.extract_feat(inputs['inputs'])
        expected = teacher.bbox_head([mask.reconstruct(level)[0] for mask, level in zip(model.masks, levels)])
        with model.masking() as seen:
            found = teacher(**inputs, mode='tensor')
    assert 'forward' not in teacher.neck.__dict__
    for ours, theirs in zip(found, expected):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert [tuple(masks.shape) for masks, _ in seen] == [(2, 6, 8, 8), (2, 6, 4, 4), (2, 6, 2, 2)]
    losses = model(**inputs, mode='loss')
    torch.testing.assert_close(losses['loss_diversity'], [dice_diversity(masks) for masks, _ in seen])
    assert all(torch.equal(a, b) for a, (b, _) in zip(model(**inputs, mode='tensor'), seen))


def test_heads_that_decode_otherwise_in_training_still_give_their_training_loss(tiny_pair: Callable) -> None:
    """FCOS multiplies boxes by the stride unless it trains."""
    _, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    teacher['bbox_head'] = dict(
        type='FCOSHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1, strides=[8, 16, 32],
        norm_cfg=None, norm_on_bbox=True, regress_ranges=((-1, 32), (32, 64), (64, 1e8)))
    teacher['type'] = 'FCOS'
    model = MaskLearner(teacher, 'random', num_tokens=1, token_weights=False)
    model.masks[0].forward = model.masks[1].forward = model.masks[2].forward = \
        lambda feature: torch.ones(len(feature), 1, *feature.shape[2:])
    data = model.data_preprocessor(batch(), True)
    masked = model(**data, mode='loss')
    twin = model.teacher.model
    twin.bbox_head.training = True
    torch.testing.assert_close(masked['loss_bbox'], twin.loss(*data.values())['loss_bbox'])
    twin.bbox_head.training = False
    assert not torch.isclose(masked['loss_bbox'], twin.loss(*data.values())['loss_bbox'])


def test_some_levels_only(learner: Callable) -> None:
    model, data = learner('dense', tap='neck[1:]')
    assert len(model.masks) == 2
    assert [tuple(masks.shape) for masks in model(**data(), mode='tensor')] == [(2, 6, 4, 4), (2, 6, 2, 2)]
    model, data = learner('dense', tap='neck[-1]')
    assert len(model(**data(), mode='tensor')) == 1


@pytest.mark.parametrize('kind', KINDS)
def test_predicts_on_masked_features(learner: Callable, kind: str, tiny_pair: Callable) -> None:
    model, _ = learner(kind)
    with torch.no_grad():
        predictions = model.eval().test_step(tiny_pair(kind)[2]())
    assert len(predictions) == 2


def test_errors(learner: Callable, tiny_pair: Callable) -> None:
    with pytest.raises(DistillError, match='called once'):
        learner('dense', tap='bbox_head.retina_cls')
    with pytest.raises(TapError, match="did you mean 'neck'"):
        learner('dense', tap='nek')
    _, teacher, _ = tiny_pair('dense')
    with pytest.raises(DistillError, match='checkpoint is missing'):
        MaskLearner(teacher)
    with pytest.raises(DistillError, match='does not exist'):
        learner('dense', masks='nowhere.pth')


def test_the_tiny_config_is_an_ordinary_one() -> None:
    cfg = Config.fromfile('projects/maskd/configs/masks_retinanet_tiny-cpu.py')
    assert cfg.model.type == 'mmpapers.MaskLearner'
    assert cfg.model.teacher.type == 'RetinaNet'
