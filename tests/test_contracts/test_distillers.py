"""Every registered distiller keeps the invariants of the distillation core, on the smallest models that it takes."""

import copy
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from mmpapers import registry
from mmpapers.distill import Distiller
from mmpapers.distill.distiller import HELPERS
from mmpapers.distill.overlay import expand

pytestmark = pytest.mark.core

# Methods of the core, which have no project with a tiny config: settings and the kind of model that shows them.
CORE = [
    (dict(type='mmpapers.FeatureMimic'), 'dense'), (dict(type='mmpapers.FeatureMimic'), 'voxel'),
    (dict(type='mmpapers.FeatureMimic'), 'query'),
    (dict(type='mmpapers.CWD'), 'segmentor'), (dict(type='mmpapers.PKD'), 'two_stage'),
    (dict(type='mmpapers.KLDistill'), 'segmentor'), (dict(type='mmpapers.KLDistill'), 'dense'),
    (dict(type='mmpapers.DIST'), 'two_stage'),
]
REPOSITORY = Path(registry.__file__).parents[1]
TINY = sorted(path for path in REPOSITORY.glob('projects/*/configs/*_tiny-cpu.py')
              if 'distill' in path.read_text('utf-8'))
CASES = [f'{overlay["type"].removeprefix("mmpapers.")}-{kind}' for overlay, kind in CORE] + [
    f'{path.parents[1].name}-{path.stem}' for path in TINY]


@pytest.fixture(params=range(len(CASES)), ids=CASES)
def case(request: pytest.FixtureRequest, tiny_pair: Callable) -> tuple[dict, dict, Callable[[], dict]]:
    """The student's config, the distiller's, and a function that makes a batch."""
    if request.param < len(CORE):
        overlay, kind = CORE[request.param]
        student, teacher, batch = tiny_pair(kind)
        init_default_scope(student['_scope_'])
        return student, dict(overlay, student=student, teacher=teacher, checkpoint='random'), batch
    cfg = Config.fromfile(TINY[request.param - len(CORE)])
    init_default_scope(cfg.default_scope)
    student = cfg.model.to_dict()
    student['_scope_'] = cfg.default_scope
    assert expand(cfg), 'a tiny config of a distiller uses the short form'
    long = cfg.model.to_dict()
    kind = dict(mmseg='segmentor', mmdet3d='voxel', mmdet='dense')[cfg.default_scope]
    return student, dict(long, student=student), tiny_pair(kind)[2]


def _build(cfg: dict, seed: int = 0) -> torch.nn.Module:
    """Build and initialise a model as a runner does."""
    torch.manual_seed(seed)
    model = MODELS.build(Config(dict(model=copy.deepcopy(cfg))).model)
    model.init_weights()
    return model.train()


def _new_run(state: dict | None = None) -> MessageHub:
    """A message hub of a run of its own, at its first iteration or where another one stopped."""
    hub = MessageHub.get_instance(f'distillers-{time.perf_counter_ns()}')
    if state is not None:
        hub.load_state_dict(state)
    return hub


def _steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict, hub: MessageHub, steps: range
           ) -> dict[str, Any]:
    """Train on the same batch; every step draws its random numbers from its own seed, as our checkpoint hook does."""
    terms: dict[str, Any] = {}
    for step in steps:
        hub.update_info('iter', step)
        hub.update_info('epoch', step // 100)
        torch.manual_seed(step)
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        total, terms = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return terms


def _sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=.9)


def _differ(first: dict, second: dict) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


def test_weight_0_is_plain_training(case: tuple) -> None:
    student, long, batch = case
    plain, off = _build(student), _build(dict(long, weight=0))
    assert not _differ(plain.state_dict(), off.state_dict())
    for model in (plain, off):
        _steps(model, _sgd(model), batch(), _new_run(), range(2))
    assert not _differ(plain.state_dict(), off.state_dict())


def test_trains_the_student_and_nothing_else(case: tuple) -> None:
    student, long, batch = case
    model = _build(long)
    teacher = model.teacher.model if model.teacher else None
    before = copy.deepcopy(teacher.state_dict()) if teacher else {}
    terms = _steps(model, _sgd(model), batch(), _new_run(), range(2))
    for name in model.weights:
        assert {f'loss_{name}', f'{name}_raw', f'{name}_weight'} <= set(terms), name
        assert torch.isfinite(torch.as_tensor(terms[f'loss_{name}']))
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    if teacher:
        assert not _differ(before, teacher.state_dict())
        assert not any(module.training for module in teacher.modules())
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
        own = {id(parameter) for parameter in model.parameters()}
        assert not own & {id(parameter) for parameter in teacher.parameters()}


def test_checkpoint_is_the_plain_students(case: tuple) -> None:
    student, long, batch = case
    model, plain = _build(long), _build(student, seed=1)
    _steps(model, _sgd(model), batch(), _new_run(), range(1))
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)
    plain.eval(), model.eval()
    data = plain.data_preprocessor(batch(), False)
    with torch.no_grad():
        expected, found = (net(**copy.deepcopy(data), mode='predict') for net in (plain, model))
    for one, other in zip(expected, found, strict=True):
        for field in ('pred_instances', 'pred_instances_3d', 'pred_sem_seg', 'seg_logits'):
            if field not in one:
                continue
            for name, value in one.get(field).items():
                value, twin = (getattr(v, 'tensor', v) for v in (value, other.get(field).get(name)))
                assert torch.equal(value, twin), (field, name)


def test_4_steps_equal_2_and_a_resumed_2(case: tuple) -> None:
    _, long, batch = case
    straight, hub = _build(long), _new_run()
    _steps(straight, _sgd(straight), batch(), hub, range(4))
    first, hub = _build(long), _new_run()
    optimizer = _sgd(first)
    _steps(first, optimizer, batch(), hub, range(2))
    saved = copy.deepcopy(dict(model=first.state_dict(), hub=hub.state_dict(), optimizer=optimizer.state_dict()))
    second = _build(long, seed=5)
    second.load_state_dict(saved['model'], strict=True)
    hub, optimizer = _new_run(saved['hub']), _sgd(second)
    optimizer.load_state_dict(saved['optimizer'])
    _steps(second, optimizer, batch(), hub, range(2, 4))
    assert not _differ(straight.state_dict(), second.state_dict())
    assert not _differ(straight.helpers.state_dict(), second.helpers.state_dict())


def test_copies_share_the_teacher_and_autocast_leaves_terms_in_float32(case: tuple) -> None:
    _, long, batch = case
    model = _build(long)
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    _new_run()
    seen = {}
    objective = model.objective
    model.objective = lambda values: seen.update(terms=objective(values), values=values) or seen['terms']
    data = model.data_preprocessor(batch(), True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**data, mode='loss')
    for name, term in seen['terms'].items():
        assert term.dtype == torch.float32, name
        assert torch.isfinite(losses[f'loss_{name}'])
    for tensors in (*seen['values'].student.values(), *seen['values'].teacher.values()):
        assert all(tensor.dtype == torch.float32 for tensor in tensors)


def test_every_registered_distiller_is_a_case() -> None:
    covered = {overlay['type'].removeprefix('mmpapers.') for overlay, _ in CORE}
    for path in TINY:
        covered.add(Config.fromfile(path).distill['type'].removeprefix('mmpapers.'))
    distillers = set()
    for symbol, name, module in registry.scan():
        source = Path(inspect.getfile(registry)).parent / Path(*module.split('.')[1:]).with_suffix('.py')
        source = source if source.is_file() else REPOSITORY / Path(*module.split('.')[1:]).with_suffix('.py')
        if symbol == 'MODELS' and source.is_file() and 'Distiller' in source.read_text('utf-8'):
            found = registry.load(symbol, name)
            if issubclass(found, Distiller):
                distillers.add(name)
    assert distillers <= covered, f'no case for {sorted(distillers - covered)}'
    assert HELPERS == 'distill_helpers'
