"""The base of all distillers: a student that is trained with additional losses from a teacher.

A :class:`Distiller` does not hold its student, it *is* the student: the built model gets a subclass of its own class
(as ``torch.distributed.fsdp.fully_shard`` does), in which only ``loss`` is extended. So names of parameters,
checkpoints, optimizer constructors, hooks, ``predict`` and ``tensor`` are the plain student's by construction.
"""

import contextlib
import functools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmpapers.distill import network, rois, schedule, sources
from mmpapers.distill.connectors import connectors
from mmpapers.distill.errors import DistillError
from mmpapers.distill.presets import ROLES, family, preset
from mmpapers.distill.schedule import Weight
from mmpapers.distill.taps import Record, Taps
from mmpapers.distill.teacher import Teacher

HELPERS = 'distill_helpers'
_ROI, _LEVELS = 'roi_head.', 'neck'  # taps inside the box head; the levels that it pools from


@dataclass
class Seen:
    """What an objective may look at in one step; all tensors are float32.

    Args:
        student: Role to the student's tensors (with graph).
        teacher: Role to the teacher's tensors (without).
        links: Role to connectors, where the method has them.
        samples: Data samples of the batch.
        inputs: The student's preprocessed inputs.
        losses: The student's own losses.
        boxes: The student's sampled boxes (N, 5), where RoIs are delivered.
        records: The raw records of both passes, by tap text.
    """

    student: dict[str, list[Tensor]]
    teacher: dict[str, list[Tensor]]
    links: nn.ModuleDict
    samples: Sequence
    inputs: Any
    losses: dict[str, Any]
    boxes: Tensor | None = None
    records: dict[str, Record] = field(default_factory=dict)

    def pairs(self, role: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of student and teacher tensors of a role; the student's has passed its connector."""
        links = self.links[role] if role in self.links else [None] * len(self.student[role])
        for link, student, teacher in zip(links, self.student[role], self.teacher[role]):
            yield (student if link is None else link(student, teacher)), teacher


class Distiller(BaseModel):
    """A student trained with the terms of :meth:`objective` beside its own losses.

    A subclass states ``roles`` (what it looks at, and how each is connected), ``weights`` (its terms and their default
    weights) and writes :meth:`objective`; ``student_roles`` are not looked at in the teacher. Every term ``x`` appears
    in the log as ``loss_x`` (weighted), ``x_raw`` and ``x_weight``.

    Args:
        student: Config file, ``'mmdet::…'``, ``Config``, dict or built model of the student.
        teacher: The same of the teacher; None only for methods without one.
        checkpoint: The teacher's weights. They must fill it completely (see ``strict``); ``'random'`` asks for an
            untrained one.
        taps: Role to tap, the same for both (``'neck[:3]'``) or ``dict(student=…, teacher=…)``; roles that are left out
            keep the preset of each model's family. See :mod:`mmpapers.distill.taps` for the syntax.
        connector: Kind of connector for all roles that have one (:class:`~mmpapers.distill.connectors.Connector`).
        weight: Factor on all terms; 0 switches distillation off, and the student trains as without.
        term_weights: Term to weight: a number or a :class:`~mmpapers.distill.schedule.Weight` as dict.
        strict: Whether the teacher's checkpoint must fit key by key.
        stage: Stage of a cascade that takes part in RoI delivery.
        data_preprocessor: For a student whose config has none (mmseg's top-level one).

    Raises:
        DistillError: If the teacher, its weights, a tap or a weight is wrong; the message names the key and the fix.
    """

    roles: ClassVar[dict[str, str | None]] = {}
    optional_roles: ClassVar[frozenset[str]] = frozenset()
    student_roles: ClassVar[frozenset[str]] = frozenset()
    weights: ClassVar[dict[str, float]] = {}
    needs_teacher: ClassVar[bool] = True
    hooks: ClassVar[tuple[str, ...]] = ()  # types of hooks that the short form adds to the run

    def __new__(cls, student: sources.Source | None = None, *args: Any, **kwargs: Any) -> 'Distiller':
        """Build the student and give it the class that is both itself and this distiller."""
        if student is None:  # copies are made without arguments
            return super().__new__(cls)
        model = sources.build(student, 'distill.student', data_preprocessor=kwargs.get('data_preprocessor'))
        if isinstance(model, Distiller):
            raise DistillError(f'the student is distilled already ({type(model).__name__}); give its plain config')
        model.__dict__['student_cfg'] = None if isinstance(student, nn.Module) else sources.model_config(
            student, 'distill.student')
        model.__class__ = _joined(cls, type(model))
        return model

    def __init__(self, student: sources.Source, teacher: sources.Source | None = None, checkpoint: str | None = None,
                 taps: dict[str, Any] | None = None, connector: str | None = None, weight: Any = 1.,
                 term_weights: dict[str, Any] | None = None, strict: bool = True, stage: int = 0,
                 data_preprocessor: dict | None = None) -> None:
        self.weight = Weight.build(weight, 'distill.weight')
        self.term_weights = self._term_weights(term_weights or {})
        self.distilling = self.weight.value != 0
        self.stage = stage
        self._attached = False
        self.teacher: Teacher | None = None
        self.add_module(HELPERS, nn.ModuleDict(dict(connectors=nn.ModuleDict())))
        self._register_state_dict_hook(_without_helpers)
        self.register_load_state_dict_pre_hook(_with_helpers)
        if teacher is None and self.needs_teacher:
            raise DistillError(f'distill.teacher is missing: {_name(self)} needs a trained model to learn from')
        if teacher is not None:
            self.teacher = Teacher(teacher, checkpoint, strict)
        self._choose_taps(taps or {})
        if self.distilling:
            self._rehearse(connector)

    # What a method writes -----------------------------------------------------------------------------------------

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Compute the unweighted terms of one step, outside of autocast.

        Args:
            seen: What both models computed.

        Returns:
            Scalar of each term named in ``weights``.
        """
        raise NotImplementedError

    def teacher_listeners(self) -> list[contextlib.AbstractContextManager]:
        """Further context managers that stay open during the teacher's pass."""
        return []

    def listeners(self, record: Record) -> list[contextlib.AbstractContextManager]:
        """Further context managers that stay open during the student's own loss.

        Args:
            record: What the teacher's pass gave.
        """
        return []

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Build further helpers, after the dry run.

        Args:
            student: Role to the student's tensors in the dry run (two random samples).
            teacher: The same of the teacher.
        """

    def maps(self, seen: Seen) -> dict[str, Tensor]:
        """Maps (B, h, w) in [0, 1] that the report draws over images, by title, such as masks of the objective.

        Args:
            seen: What both models computed, without losses.
        """
        return {}

    # What it gets -------------------------------------------------------------------------------------------------

    @property
    def helpers(self) -> nn.ModuleDict:
        """Modules that are trained along and needed for resuming only: connectors, adapters, discriminators."""
        return getattr(self, HELPERS)

    @property
    def generator(self) -> torch.Generator:
        """Random numbers of this step, made from the run's seed, the process and the iteration: resuming is exact."""
        state = (schedule.seed() * 1_000_003 + schedule.iteration()) * 4_099 + get_rank()
        return torch.Generator().manual_seed(state % 2**63)

    def loss(self, inputs: Any, data_samples: Sequence, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The student's losses and, while training, the terms of the objective.

        Args:
            inputs: Preprocessed inputs, as the student takes them.
            data_samples: Data samples with labels.

        Returns:
            The student's losses, and for each term ``loss_<term>``, ``<term>_raw`` and ``<term>_weight``.
        """
        if not self.distilling or not torch.is_grad_enabled():  # no gradient: a validation loss, the student's own
            return super().loss(inputs, data_samples, *args, **kwargs)
        self._attach()
        weights = {name: self.weight() * weight() for name, weight in self.term_weights.items()}
        if not any(weights.values()) and not self.needed():
            losses = super().loss(inputs, data_samples, *args, **kwargs)
            zero = {name: _zero(self.helpers) for name in weights}
            return {**losses, **_logged(zero, weights)}
        record = Record()
        if self.teacher is not None:
            with contextlib.ExitStack() as stack:
                for listener in self.teacher_listeners():
                    stack.enter_context(listener)
                record = self.teacher(self.teacher_inputs(inputs, data_samples), data_samples, self.data_preprocessor)
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(self.student_taps.recording(self))
            boxes = stack.enter_context(rois.sampled_boxes(self, self.stage)) if self.delivers else []
            for listener in self.listeners(record):
                stack.enter_context(listener)
            losses = super().loss(inputs, data_samples, *args, **kwargs)
        self.student_taps.verify(own)
        with torch.autocast(_device(inputs), enabled=False):
            seen = self._seen(own, record, boxes, inputs, data_samples, losses)
            terms = self.objective(seen)
        return {**losses, **_logged(terms, weights)}

    def teacher_inputs(self, inputs: Any, data_samples: Sequence) -> Any:
        """What the teacher sees: the student's preprocessed inputs, unless a method shows it something else."""
        return inputs

    def needed(self) -> bool:
        """Whether the objective is computed although all its weights are 0 now."""
        return False

    def roles_of(self, record: Record, taps: dict[str, str]) -> dict[str, list[Tensor]]:
        """The tensors of each role in a record, as float32.

        A box head may run more than once, on masks' boxes or in the stages of a cascade; its first run is what counts.
        """
        return {role: [_float(tensor) for tensor in record[tap][:1 if tap.startswith(_ROI) else None]]
                for role, tap in taps.items() if tap in record.values}

    def _seen(self, own: Record, record: Record, boxes: list[Tensor], inputs: Any, samples: Sequence,
              losses: dict[str, Any]) -> Seen:
        """Bring both records together; the teacher's box head runs here, on the student's boxes."""
        sampled = boxes[0] if boxes else None
        if self.delivers:
            if sampled is None:
                raise DistillError('the student ran its box head on no boxes in this step')
            delivered = self.teacher.on_boxes(record[_LEVELS], sampled, self.stage)
            record.values.update(delivered.values)
        student, teacher = self.roles_of(own, self.taps_of['student']), self.roles_of(record, self.taps_of['teacher'])
        return Seen(student, teacher, self.helpers['connectors'], samples, inputs, losses, sampled,
                    dict(student=own, teacher=record))

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> nn.Module:
        """Move or cast the teacher along."""
        if self.__dict__.get('teacher') is not None:
            self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)

    # Building -----------------------------------------------------------------------------------------------------

    def _term_weights(self, given: dict[str, Any]) -> dict[str, Weight]:
        """Weights of all terms: those of the method, and what the config says instead."""
        unknown = sorted(set(given) - set(self.weights))
        if unknown:
            raise DistillError(f'distill.term_weights names {unknown[0]!r}; {_name(self)} has '
                               f'{", ".join(self.weights)}')
        return {name: Weight.build(given.get(name, value), f'distill.term_weights.{name}')
                for name, value in self.weights.items()}

    def _choose_taps(self, given: dict[str, Any]) -> None:
        """Decide what is tapped in both models, by the config and by the presets of their families."""
        unknown = sorted(set(given) - set(self.roles))
        if unknown:
            raise DistillError(f'distill.taps names {unknown[0]!r}; {_name(self)} looks at '
                               f'{", ".join(self.roles) or "nothing"}')
        own, theirs = self._complete('student', self, given), {}
        if self.teacher is not None:
            theirs = self._complete('teacher', self.teacher.model, given)
            own = {role: tap for role, tap in own.items() if role in theirs or role in self.student_roles}
            theirs = {role: tap for role, tap in theirs.items() if role in own}
        self.taps_of = dict(student=own, teacher=theirs)
        self.student_taps = Taps(self, list(own.values()), 'student')
        self.delivers = any(tap.startswith(_ROI) for tap in theirs.values())
        if self.delivers:
            rois.extractor_of(self, self.stage)
            rois.extractor_of(self.teacher.model, self.stage)
        if self.teacher is not None:
            inside = [tap for tap in theirs.values() if tap.startswith(_ROI)]
            outside = [tap for tap in theirs.values() if tap not in inside]
            self.teacher.watch([*outside, _LEVELS] if self.delivers else outside, inside)

    def _complete(self, owner: str, model: nn.Module, given: dict[str, Any]) -> dict[str, str]:
        """Taps of one model: what the config gives, else the preset of its family; None leaves a role out."""
        known, taps = preset(model), {}
        for role in self.roles:
            said = given.get(role, {})
            if said is None or (owner == 'teacher' and role in self.student_roles):
                continue
            tap = (said if isinstance(said, str) else said.get(owner)) or known.get(role)
            if tap is None and role not in self.optional_roles:
                plain = type(model).__name__.partition('[')[2][:-1] or type(model).__name__
                kind = family(model)
                lacks = f'({kind}) has no preset' if kind else 'belongs to no family that has presets'
                raise DistillError(
                    f'the {owner} {plain} {lacks} for {role!r}; say where it is: '
                    f'distill = dict(taps=dict({role}=dict(student=..., teacher=...))). '
                    f'Presets know {", ".join(ROLES)}; `python tools/inspect_model.py STUDENT --teacher TEACHER` '
                    'lists paths')
            if tap is not None:
                taps[role] = tap
        return taps

    def _rehearse(self, connector: str | None) -> None:
        """Run both models dry and build what depends on their shapes."""
        own, theirs = self.taps_of['student'], self.taps_of['teacher']
        with self.student_taps.recording(self) as record:
            network.rehearse(self, self.student_cfg, self.student_taps.auxiliary)
        self.student_taps.learn(record)
        student, teacher = self.roles_of(record, own), {}
        if self.teacher is not None:
            teacher = self.roles_of(self.teacher.rehearse(), theirs)
        for role, kind in self.roles.items():
            if kind is not None and role in student and role in teacher:
                self.helpers['connectors'][role] = connectors(
                    student[role], teacher[role], kind if kind == 'identity' else connector or kind,
                    f'distill.taps.{role}')
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.finish(student, teacher)

    # Resuming -----------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Let the run's message hub carry the helpers into checkpoints, and take from it what a resumed run brought.

        The ``state_dict`` of a checkpoint must hold nothing but the student, so helpers travel beside it.
        """
        if self._attached:
            return
        self._attached = True
        hub = MessageHub.get_current_instance()
        saved = hub.runtime_info.get(HELPERS)
        if saved and not isinstance(saved, _Live):
            self.helpers.load_state_dict(saved)
        state = self.helpers.state_dict()
        if state:
            hub.update_info(HELPERS, _Live(state))
        else:
            hub.pop_info(HELPERS)


class _Live(dict):
    """State of helpers that are being trained; a copy, as a checkpoint takes one, is a plain dict of copied tensors."""

    def __deepcopy__(self, memo: dict) -> dict:
        return {name: tensor.detach().clone() for name, tensor in self.items()}


@functools.cache
def _joined(distiller: type, student: type) -> type:
    """The class that is both; ``loss`` of the distiller comes first and calls that of the student."""
    return types.new_class(f'{distiller.__name__}[{student.__name__}]', (distiller, student), {},
                           lambda body: body.update(__module__=distiller.__module__, __doc__=distiller.__doc__))


def _name(model: nn.Module) -> str:
    """Class name of the method alone."""
    return type(model).__name__.partition('[')[0]


def _without_helpers(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """Hook: what is saved under a student's keys is the student."""
    for key in [key for key in state if key.startswith(f'{prefix}{HELPERS}.')]:
        del state[key]


def _with_helpers(module: nn.Module, state: dict, prefix: str, *rest: Any) -> None:
    """Hook: loading a plain student leaves the helpers as they are, without a word about missing keys."""
    for key, value in module.helpers.state_dict(prefix=f'{prefix}{HELPERS}.').items():
        state.setdefault(key, value)


def _logged(terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """What the log shows of each term."""
    out = {}
    for name, term in terms.items():
        out[f'loss_{name}'] = term * weights[name]
        out[f'{name}_raw'] = term.detach()
        out[f'{name}_weight'] = term.new_tensor(weights[name])
    return out


def _zero(module: nn.Module) -> Tensor:
    """0, with every parameter of the module in its graph, as DDP wants it."""
    values = [parameter.sum() for parameter in module.parameters()]
    return sum(values) * 0. if values else torch.zeros(())


def _float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _device(inputs: Any) -> str:
    """Device type of preprocessed inputs."""
    while not isinstance(inputs, Tensor):
        inputs = next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    return inputs.device.type
