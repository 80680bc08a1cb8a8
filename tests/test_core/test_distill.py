"""The distillation core: taps, teacher, connectors, weights, sources, the overlay, and whole runs through the tools."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen, TapError, Teacher, Weight
from mmpapers.distill.connectors import Connector, connectors
from mmpapers.distill.presets import family, preset, uses_sigmoid
from mmpapers.distill.rois import sampled_boxes
from mmpapers.distill.schedule import iteration
from mmpapers.distill.sources import model_config
from mmpapers.distill.taps import Tap, Taps, fold_tokens
from mmpapers.distill.teacher import load, renormalise

pytestmark = pytest.mark.core


class Mimic(Distiller):
    """The smallest distiller."""

    roles = {'features': 'auto'}
    weights = {'mimic': 1.}

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Mean squared difference."""
        return dict(mimic=sum(F.mse_loss(student, teacher) for student, teacher in seen.pairs('features')))


class Scores(Distiller):
    """Compares scores of the same boxes."""

    roles = {'logits': None}
    weights = {'scores': 1.}

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Mean squared difference."""
        return dict(scores=sum(F.mse_loss(student, teacher) for student, teacher in seen.pairs('logits')))


def _model(cfg: dict) -> nn.Module:
    init_default_scope(cfg['_scope_'])
    return MODELS.build(Config(dict(model=copy.deepcopy(cfg))).model)


def _data(model: nn.Module, batch: dict) -> dict:
    return model.data_preprocessor(batch, True)


# Taps ---------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Levels, a head that is called by ``forward`` once per level, and an activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Identity()
        self.linear = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.tail = nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run three levels."""
        levels = self.neck((x, x + 1, x + 2))
        out = [self.relu(self.linear.forward(level)) for level in levels]
        self.calls += 1
        return [self.tail(level) for level in out]


def test_taps_see_direct_calls_levels_and_inputs() -> None:
    net, x = Net(), torch.randn(2, 3)
    taps = Taps(net, ['neck[1]', 'neck[:2]', 'linear', 'linear<', 'tail'])
    with taps.recording(net) as record:
        out = net(x)
    assert torch.equal(record['neck[1]'][0], x + 1)
    assert len(record['neck[:2]']) == 2
    assert len(record['linear']) == len(record['linear<']) == 3
    assert all(torch.equal(a, b) for a, b in zip(record['tail'], out))
    assert not any('forward' in module.__dict__ for module in net.modules())


def test_taps_learn_to_copy_what_is_overwritten() -> None:
    torch.manual_seed(3)
    net, x = Net(), torch.randn(8, 3)
    taps = Taps(net, ['linear'])
    with torch.no_grad(), taps.recording(net) as record:
        net(x)
    assert record['linear'][0].min() >= 0  # the in-place ReLU wrote over it
    with pytest.raises(TapError, match='in place'):
        taps.verify(record)
    taps.learn(record)
    with taps.recording(net) as record:
        net(x)
    taps.verify(record)
    assert record['linear'][0].min() < 0
    assert torch.equal(record['linear'][0], net.linear(x))


def test_taps_end_the_pass_after_the_last_event() -> None:
    net, x = Net(), torch.randn(2, 3)
    taps = Taps(net, ['neck'])
    with taps.recording(net) as record:
        net(x)
    taps.learn(record)
    with taps.recording(net, stop=True) as record:
        net(x)
    assert net.calls == 1
    assert len(record['neck']) == 3


def test_taps_keep_a_foreign_forward() -> None:
    net = Net()
    net.tail.forward = own = lambda x: x
    with Taps(net, ['tail']).recording(net) as record:
        net(torch.randn(1, 3))
    assert len(record['tail']) == 3
    assert net.tail.forward is own


@pytest.mark.parametrize(('text', 'words'), [
    ('nek', "did you mean 'neck'"), ('linear.weight', 'inspect_model'), ('neck[', 'cannot be read'),
    ('neck[]', 'cannot be read|empty'), (3, 'cannot be read')])
def test_bad_taps(text: str, words: str) -> None:
    with pytest.raises(TapError, match=words):
        Taps(Net(), [text])


def test_taps_that_are_not_reached_or_give_too_few_levels() -> None:
    net = Net()
    net.spare = nn.Linear(3, 3)
    taps = Taps(net, ['spare'], 'teacher')
    with taps.recording(net) as record:
        net(torch.randn(1, 3))
    with pytest.raises(TapError, match="the teacher never calls 'spare'"):
        taps.learn(record)
    with pytest.raises(TapError, match='gives 3 elements'), Taps(net, ['neck[5]']).recording(net):
        net(torch.randn(1, 3))


def test_tokens_fold_into_maps() -> None:
    tokens = torch.randn(2, 1 + 16, 5)
    folded = Tap.parse('blocks.3 tokens=1').select(tokens)[0]
    assert folded.shape == (2, 5, 4, 4)
    assert torch.equal(folded[1, :, 2, 3], tokens[1, 1 + 2 * 4 + 3])
    with pytest.raises(TapError, match='no square map'):
        fold_tokens(tokens, 2)


# Connectors, weights, sources ---------------------------------------------------------------------------------------


def test_connectors_bring_width_and_size() -> None:
    link = Connector((2, 4, 8, 8), (2, 6, 16, 16))
    assert link(torch.randn(2, 4, 8, 8), torch.randn(2, 6, 16, 16)).shape == (2, 6, 16, 16)
    assert Connector((2, 4), (2, 7))(torch.randn(3, 4), torch.randn(3, 7)).shape == (3, 7)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(Connector(x.shape, x.shape)(x, x), x)
    state = torch.get_rng_state()
    first, second = (connectors([x], [torch.randn(2, 6, 8, 8, generator=torch.Generator())], 'conv', 'features')
                     for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0].layer.weight, second[0].layer.weight)


@pytest.mark.parametrize(('student', 'teacher', 'kind', 'words'), [
    ((2, 4, 8, 8), (2, 4), 'auto', 'same kind'), ((2, 4), (2, 5), 'identity', '4 channels and the teacher 5'),
    ((2, 4), (2, 4), 'magic', 'conv_bn')])
def test_bad_connectors(student: tuple, teacher: tuple, kind: str, words: str) -> None:
    with pytest.raises(DistillError, match=words):
        Connector(student, teacher, kind)


def test_a_weight_follows_the_runs_counters() -> None:
    hub = MessageHub.get_instance('weights')
    weight = Weight.build(dict(value=2., warmup=4, begin=2, end_epoch=3), 'w')
    values = []
    for step in (0, 2, 3, 4, 6, 50):
        hub.update_info('iter', step)
        hub.update_info('epoch', 0)
        values.append(weight())
    assert values == [0., 0., .5, 1., 2., 2.]
    assert iteration() == 50
    hub.update_info('epoch', 3)
    assert weight() == 0.
    with pytest.raises(DistillError, match='distill.weight='):
        Weight.build(dict(valeu=2.), 'distill.weight')


def test_sources(tmp_path: Path) -> None:
    assert model_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'teacher')['_scope_'] == 'mmdet'
    whole = Config(dict(model=dict(type='A'), data_preprocessor=dict(type='P'), default_scope='mmseg'))
    assert model_config(whole, 'teacher') == dict(type='A', data_preprocessor=dict(type='P'), _scope_='mmseg')
    assert model_config(Config(dict(model=dict(type='X', student=dict(type='S')))), 'teacher') == dict(type='S')
    (tmp_path / 'a.py').write_text("model = dict(type='A')")
    assert model_config('a.py', 'teacher', ('.', tmp_path)) == dict(type='A')
    for bad, words in (('nowhere.py', 'does not exist'), (dict(a=1), 'holds no `model`'),
                       ('mmdet::no/such.py', 'teacher=')):
        with pytest.raises(DistillError, match=words):
            model_config(bad, 'teacher')


@pytest.mark.parametrize(('kind', 'name', 'roles'), [
    ('dense', 'dense', {'features', 'logits', 'boxes'}), ('two_stage', 'two_stage', {'features', 'logits', 'boxes'}),
    ('segmentor', 'segmentor', {'features', 'logits', 'auxiliary'}),
    ('voxel', 'voxel', {'features', 'logits', 'boxes'})])
def test_presets(tiny_pair: Callable, kind: str, name: str, roles: set[str]) -> None:
    model = _model(tiny_pair(kind)[0])
    assert family(model) == name
    taps = preset(model)
    assert roles <= set(taps)
    Taps(model, list(taps.values()))
    assert uses_sigmoid(model) == (kind in ('dense', 'voxel'))


# Teacher ------------------------------------------------------------------------------------------------------------


def test_a_teacher_must_load_completely(tiny_pair: Callable, tmp_path: Path) -> None:
    cfg = tiny_pair('dense')[1]
    model = _model(cfg)
    state = model.state_dict()
    whole, part, foreign = tmp_path / 'whole.pth', tmp_path / 'part.pth', tmp_path / 'foreign.pth'
    torch.save(dict(state_dict={f'module.{key}': value for key, value in state.items()}), whole)
    load(_model(cfg), str(whole))
    wrong = {**state, 'bbox_head.retina_cls.bias': torch.zeros(99), 'extra.weight': torch.zeros(1)}
    del wrong['neck.fpn_convs.0.conv.weight']
    torch.save(wrong, part)
    with pytest.raises(DistillError) as error:
        Teacher(cfg, str(part))
    for words in ('neck.fpn_convs.0.conv.weight', 'extra.weight', r'(99,) instead of', 'strict=False', 'part.pth'):
        assert words in str(error.value)
    loose = Teacher(cfg, str(part), strict=False)
    assert torch.equal(loose.model.neck.fpn_convs[1].conv.weight, state['neck.fpn_convs.1.conv.weight'])
    foreign.write_bytes(b'no checkpoint at all')
    for file, words in ((foreign, 'foreign.pth'), (tmp_path / 'absent.pth', 'does not exist'), (None, 'is missing')):
        with pytest.raises(DistillError, match=words):
            Teacher(cfg, file)


@pytest.mark.parametrize('wrap', ['', 'module.'])
def test_a_teachers_layers_with_versions_load_as_they_were_saved(tmp_path: Path, wrap: str) -> None:
    from mmcv.ops import SubMConv3d  # without its version it takes a file for an older one and permutes the weights
    model, other = (torch.nn.Sequential(SubMConv3d(4, 8, 3)) for _ in range(2))
    saved = torch.nn.ModuleDict(dict(module=model)) if wrap else model
    torch.save(dict(state_dict=saved.state_dict()), tmp_path / 'sparse.pth')
    load(other, str(tmp_path / 'sparse.pth'))
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_teacher_of_nan_is_refused(tiny_pair: Callable) -> None:
    student, cfg, _ = tiny_pair('dense')
    model = _model(cfg)
    model.backbone.conv1.weight.data[0, 0, 0, 0] = float('nan')
    with pytest.raises(DistillError, match='NaN'):
        Mimic(student=student, teacher=model)


def test_a_teacher_is_bit_equal_in_training_with_dropout_and_moves_along(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('segmentor')
    init_default_scope('mmseg')
    model = Scores(student=student, teacher=teacher, checkpoint='random').train()
    data = _data(model, batch())
    first, second = (model.teacher(data['inputs'], data['data_samples'])['decode_head'][0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.grad_fn is None
    model.double()
    assert next(model.teacher.model.parameters()).dtype == torch.float64


def test_images_are_renormalised_and_padding_stays_zero(tiny_pair: Callable) -> None:
    init_default_scope('mmdet')
    cfg, _, batch = tiny_pair('dense')
    other = copy.deepcopy(cfg['data_preprocessor'])
    other.update(mean=[10., 20., 30.], std=[5., 6., 7.], bgr_to_rgb=False)
    ours, theirs = (MODELS.build(dict(c, _scope_='mmdet')) for c in (cfg['data_preprocessor'], other))
    raw = batch()
    raw['inputs'][1] = raw['inputs'][1][:, :40, :50]
    raw['data_samples'][1].set_metainfo(dict(img_shape=(40, 50)))
    made, wanted = (pre(copy.deepcopy(raw), False) for pre in (ours, theirs))
    found = renormalise(made['inputs'], made['data_samples'], ours, theirs)
    assert torch.allclose(found, wanted['inputs'], rtol=0, atol=1e-4)
    assert found[1, :, 40:].abs().max() == 0
    assert renormalise(made['inputs'], made['data_samples'], ours, ours) is made['inputs']


def test_a_teachers_voxel_encoder_does_not_write_into_the_students_voxels(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('voxel')
    init_default_scope('mmdet3d')
    model = Mimic(student=student, teacher=teacher, checkpoint='random')
    data = _data(model, batch())
    before = data['inputs']['voxels']['voxels'].clone()
    model.teacher(data['inputs'], data['data_samples'], model.data_preprocessor)
    assert torch.equal(data['inputs']['voxels']['voxels'], before)
    with torch.no_grad():
        model.teacher.model.extract_feat(data['inputs'])
    assert not torch.equal(data['inputs']['voxels']['voxels'], before)  # as it would have


def test_the_teacher_runs_no_further_than_its_taps(tiny_pair: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, batch = tiny_pair('two_stage')
    init_default_scope('mmdet')
    model = Mimic(student=student, teacher=teacher, checkpoint='random')
    monkeypatch.setattr(model.teacher.model.rpn_head, 'forward', None)  # calling it would fail
    losses = model.loss(**_data(model, batch()))
    assert losses['loss_mimic'] > 0


# RoI delivery -------------------------------------------------------------------------------------------------------


def test_the_teachers_box_head_runs_on_the_students_boxes(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('two_stage')
    init_default_scope('mmdet')
    model = Scores(student=student, teacher=teacher, checkpoint='random').train()
    seen = {}
    model.objective = lambda values: seen.update(values=values) or dict(scores=values.student['logits'][0].sum())
    data = _data(model, batch())
    model.loss(**data)
    values = seen['values']
    assert values.boxes.shape[1] == 5
    assert values.student['logits'][0].shape == values.teacher['logits'][0].shape == (len(values.boxes), 3)
    net = model.teacher.model
    with torch.no_grad():
        expected = net.roi_head._bbox_forward(net.extract_feat(data['inputs']), values.boxes)['cls_score']
    assert torch.allclose(values.teacher['logits'][0], expected, rtol=0, atol=1e-6)
    with pytest.raises(DistillError, match='no roi_head'), sampled_boxes(_model(tiny_pair('dense')[0])):
        pass


# Distiller ----------------------------------------------------------------------------------------------------------


def test_building_draws_no_random_numbers_of_the_run(tiny_pair: Callable) -> None:
    student, teacher, _ = tiny_pair('dense')
    torch.manual_seed(7)
    plain_model = _model(student)
    expected = torch.rand(1)
    torch.manual_seed(7)
    model = Mimic(student=student, teacher=teacher, checkpoint='random')
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain_model.state_dict().items())
    assert isinstance(model, type(plain_model))
    assert type(model).__name__ == 'Mimic[RetinaNet]'


def test_a_teacher_equal_to_the_student_gives_zero(tiny_pair: Callable) -> None:
    student, _, batch = tiny_pair('dense')
    teacher = _model(student)
    model = Mimic(student=student, teacher=copy.deepcopy(teacher)).eval()
    model.load_state_dict(teacher.state_dict())
    assert model.loss(**_data(model, batch()))['loss_mimic'] == 0


def test_no_terms_without_gradients(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    model = Mimic(student=student, teacher=teacher, checkpoint='random')
    with torch.no_grad():
        assert 'loss_mimic' not in model.loss(**_data(model, batch()))


def test_a_scheduled_weight_of_0_keeps_helpers_in_the_graph(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    MessageHub.get_instance('scheduled')
    model = Mimic(student=student, teacher=teacher, checkpoint='random',
                  term_weights=dict(mimic=dict(value=1., begin=5)))
    losses = model.loss(**_data(model, batch()))
    assert losses['loss_mimic'] == 0
    model.parse_losses(losses)[0].backward()
    assert all(parameter.grad is not None for parameter in model.helpers.parameters())


@pytest.mark.parametrize(('settings', 'words'), [
    (dict(teacher=None), 'teacher is missing'), (dict(taps=dict(feature='neck')), "'feature'; Mimic looks at features"),
    (dict(taps=dict(features='necks')), "did you mean 'neck'"),
    (dict(term_weights=dict(kl=1.)), "'kl'; Mimic has mimic"),
    (dict(taps=dict(features=dict(student='neck', teacher='neck[:2]'))), 'gives 3 tensors'),
    (dict(connector='identity'), "8 channels and the teacher 16"), (dict(weight='big'), 'no loss weight')])
def test_bad_settings(tiny_pair: Callable, settings: dict, words: str) -> None:
    student, teacher, _ = tiny_pair('dense')
    init_default_scope('mmdet')
    with pytest.raises((DistillError, TapError), match=words):
        Mimic(**{**dict(student=student, teacher=teacher, checkpoint='random'), **settings})


def test_a_model_without_family_needs_taps(tiny_pair: Callable) -> None:
    student, teacher, _ = tiny_pair('voxel')
    init_default_scope('mmdet3d')
    with pytest.raises(DistillError, match="no preset for 'auxiliary'"):
        type('Aux', (Mimic,), dict(roles={'auxiliary': None}))(student=student, teacher=teacher, checkpoint='random')


def test_ema_averages_the_student_alone(tiny_pair: Callable) -> None:
    from mmengine.model import ExponentialMovingAverage
    student, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    model = Mimic(student=student, teacher=teacher, checkpoint='random')
    ema = ExponentialMovingAverage(model, momentum=.5)
    ema.update_parameters(model)
    plain_keys = {f'module.{key}' for key in _model(student).state_dict()}
    assert set(ema.state_dict()) == plain_keys | {'steps'}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.)
    ema.update_parameters(model)
    assert not torch.equal(ema.module.backbone.conv1.weight, model.backbone.conv1.weight)
    ema.load_state_dict(ema.state_dict(), strict=True)
