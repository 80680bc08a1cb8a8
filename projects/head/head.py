"""HEAD and TF-HEAD: single-stage detectors that learn with the help of heads of another kind.

HEtero-Assists Distillation for Heterogeneous Object Detectors, ECCV 2022, https://arxiv.org/abs/2207.05345
Official code: https://github.com/LutingWang/HEAD (Apache-2.0; HEAD only); this is an independent implementation.
Differences: see README.md.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmpapers.distill import Distiller, DistillError, Seen, Weight
from mmpapers.distill.connectors import Connector
from mmpapers.distill.taps import Taps
from mmpapers.projects.head.assistants import LEVELS, RCNN, RCNNAssistant, mse, site, total
from mmpapers.projects.head.proposals import Proposer, Sampled, check_head
from mmpapers.registry import MODELS

WARM = dict(value=2., warmup=2000)  # weight of AKD and CKD [official code]
PROPOSALS = dict(nms_pre=2000, max_per_img=1000, iou_threshold=0.7)  # of the student [official code]


class Assisted(Distiller):
    """What both methods share: the student's own predictions, heard in its loss pass, become boxes for RoI heads."""

    roles: ClassVar[dict[str, str | None]] = dict(features=None, outputs=None, tower=None)
    student_roles: ClassVar[frozenset[str]] = frozenset(('outputs', 'tower'))
    weights: ClassVar[dict[str, Any]] = dict(assist=1.)

    def switch(self, **terms: bool) -> None:
        """Keep the terms that are on; a weight of one that is off is no mistake."""
        self.weights = {term: value for term, value in type(self).weights.items() if terms[term]}

    def _term_weights(self, given: dict[str, Any]) -> dict[str, Weight]:
        off = set(type(self).weights) - set(self.weights)
        return super()._term_weights({term: value for term, value in given.items() if term not in off})

    def sample(self, seen: Seen) -> Sampled:
        """The student's proposals of this step, sampled."""
        return self.proposer(self.bbox_head, seen.student['outputs'], seen.samples, self.generator)

    @staticmethod
    def note(seen: Seen, losses: dict[str, Any], prefix: str) -> None:
        """Show the parts of an assistant's loss in the log; they are in the sum already, so no key says ``loss``."""
        for key, value in losses.items():
            value = sum(value) if isinstance(value, list) else value
            seen.losses[f'{prefix}_{key.removeprefix("loss_")}'] = value.detach()

    def link(self, student: Tensor, teacher: Tensor, where: str) -> Connector:
        """An adapter: always a layer, linear for rows and a 1x1 convolution for maps."""
        return Connector(student.shape, teacher.shape, 'conv', where)


@MODELS.register_module()
class HEAD(Assisted):
    """A single-stage student whose assistant, the teacher's kind of RoI head on the student's neck, bridges the two.

    The assistant starts from the teacher's box head and is fed with the student's own predictions. On the boxes it is
    trained on, it imitates the teacher's box head (AKD), and so does the student's class branch at the place that each
    box comes from (CKD).

    Args:
        student: Single-stage detector: RetinaNet as published; FCOS, ATSS and GFL work too.
        teacher: Faster R-CNN, or another two-stage detector with shared fully connected layers in its box head. Not
            needed for ``akd=False, ckd=False``.
        checkpoint: The teacher's weights.
        assist: Train the assistant.
        akd: Let it imitate the teacher's fully connected layers.
        ckd: Let the student's class branch imitate the last of them.
        transfer: Let the assistant start from the teacher's box head.
        roi_head: Box head of the assistant, ``dict(bbox_head=..., bbox_roi_extractor=..., rcnn=...)``, each as a Faster
            R-CNN has it. What is left out is the teacher's, or mmdet's usual.
        proposals: What the student proposes: ``nms_pre`` 2000, ``max_per_img`` 1000, ``iou_threshold`` 0.7.
        **kwargs: See :class:`~mmpapers.distill.distiller.Distiller`. Terms: ``assist`` (1), ``akd`` (the sum of both
            layers) and ``ckd`` (2 each after a linear warm-up of 2000 iterations) [official code]. ``stage`` chooses
            that of a cascade.

    Raises:
        DistillError: If the student's head or the teacher's is of another kind, or their classes differ.
    """

    weights: ClassVar[dict[str, Any]] = dict(assist=1., akd=WARM, ckd=WARM)

    def __init__(self, student: Any, teacher: Any = None, checkpoint: str | None = None, assist: bool = True,
                 akd: bool = True, ckd: bool = True, transfer: bool = True, roi_head: dict | None = None,
                 proposals: dict | None = None, **kwargs: Any) -> None:
        if akd and not assist:
            raise DistillError('distill.akd compares the assistant with the teacher; beside assist=False say akd=False')
        if teacher is None and (akd or ckd):
            raise DistillError('distill.teacher is missing: AKD and CKD need a trained model. To train the assistant '
                               'alone say distill = dict(akd=False, ckd=False)')
        self.switch(assist=assist, akd=akd, ckd=ckd)
        self.needs_teacher = akd or ckd
        self._roi_head = dict(roi_head or {})
        self._proposals = {**PROPOSALS, **(proposals or {})}
        self._transfer = transfer and teacher is not None
        super().__init__(student, teacher, checkpoint, **kwargs)

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Build assistant and adapters; read the widths of the teacher's layers from a dry run on two boxes."""
        check_head(self.bbox_head)
        target = self._read_teacher(teacher) if self.teacher is not None else []
        given = {**self._of_teacher(), **self._roi_head}
        self.proposer = Proposer(given.get('rcnn') or RCNN, self._proposals)
        if 'assist' in self.weights:
            assistant = RCNNAssistant(**site(self.bbox_head, student['features'], LEVELS), **given)
            if self._transfer:
                assistant.copy_from(self._teacher_head())
            self.helpers['assistant'] = assistant
            if 'akd' in self.weights:
                own = [layer.out_features for layer in assistant.bbox_head.shared_fcs]
                if len(own) != len(target):
                    raise DistillError(f'the assistant has {len(own)} shared layers and the teacher {len(target)}; let '
                                       'distill.roi_head.bbox_head have as many')
                self.helpers['akd'] = nn.ModuleList(
                    self.link(row.new_empty(2, width), row, 'AKD') for width, row in zip(own, target))
        if 'ckd' in self.weights:
            width = student['tower'][0].shape[1]
            self.helpers['ckd'] = self.link(target[-1].new_empty(2, width), target[-1], 'CKD')
        if not self.needs_teacher:
            self.teacher = None  # it has given its box head's weights, and nobody looks at it again

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Losses of the assistant, AKD and CKD on the boxes that the student proposes."""
        sampled, terms, hidden = self.sample(seen), {}, []
        if 'assist' in self.weights:
            losses, hidden = self.helpers['assistant'](seen.student['features'], sampled)
            terms['assist'] = total(losses)
            self.note(seen, losses, 'assist')
        if self.needs_teacher:
            target = self.targets(seen.teacher['features'], sampled.rois)
        if 'akd' in self.weights:
            terms['akd'] = sum(mse(*rows) for rows in zip(self.helpers['akd'], hidden, target))
        if 'ckd' in self.weights:
            terms['ckd'] = mse(self.helpers['ckd'], sampled.gather(seen.student['tower']), target[-1][sampled.dense])
        return terms

    def targets(self, levels: list[Tensor], rois: Tensor) -> list[Tensor]:
        """What the teacher's shared layers say of boxes.

        Args:
            levels: Its neck levels (B, C, H, W).
            rois: Boxes (N, 5).

        Returns:
            Features (N, D) after each layer and its ReLU, without gradient.
        """
        head = self._teacher_head()
        kind = head.shared_fcs[0].weight
        record = self.teacher.on_boxes([level.to(kind.dtype) for level in levels], rois.to(kind.dtype), self.stage)
        return [rows.float() for rows in next(iter(record.values.values()))[:head.num_shared_fcs]]

    def _teacher_head(self) -> nn.Module:
        """Box head of the teacher, of the chosen stage."""
        head = self.teacher.model.roi_head.bbox_head
        return head[self.stage] if isinstance(head, nn.ModuleList) else head

    def _read_teacher(self, teacher: dict[str, list[Tensor]]) -> list[Tensor]:
        """Tap the ReLU of the teacher's box head, which sees each shared layer once, and run it on two boxes."""
        model = self.teacher.model
        if getattr(model, 'roi_head', None) is None or getattr(model.roi_head, 'with_shared_head', False) \
                or getattr(self._teacher_head(), 'num_shared_fcs', 0) < 1:
            raise DistillError('HEAD learns from the shared fully connected layers of a box head on a feature pyramid; '
                               f'the teacher {type(model).__name__} has none. Take a Faster R-CNN with FPN')
        path = 'roi_head.bbox_head' + (f'.{self.stage}' if isinstance(model.roi_head.bbox_head, nn.ModuleList) else '')
        self.teacher.roi_taps = Taps(model, [f'{path}.relu'], 'teacher')
        levels = teacher['features']
        boxes = levels[0].new_tensor([[0., 0., 0., 32., 32.], [1., 8., 8., 40., 56.]])
        record = self.teacher.on_boxes(levels, boxes, self.stage)
        self.teacher.roi_taps.learn(record)
        return self.targets(levels, boxes)

    def _of_teacher(self) -> dict[str, Any]:
        """The teacher's own box head, extractor and sampler, as configs; nothing where it came as a model."""
        cfg = self.teacher.cfg if self.teacher is not None else None
        if not cfg or not cfg.get('roi_head'):
            return {}
        parts = {name: cfg['roi_head'].get(name) for name in ('bbox_head', 'bbox_roi_extractor')}
        parts['rcnn'] = (cfg.get('train_cfg') or {}).get('rcnn')
        return {name: part[self.stage] if isinstance(part, list) else part for name, part in parts.items() if part}


@MODELS.register_module()
class TFHEAD(Assisted):
    """Teacher-free HEAD: several assistants of other kinds on the student's neck, which also play the teacher in CKD.

    ``L = L_gt(student) + sum over assistants a of (L_gt(a) + CKD(a -> student's class branch))``. No gradient of the
    CKD reaches an assistant. There is no official code; layer, weight and warm-up of the CKD are ours (those of HEAD).

    Args:
        student: Single-stage detector, as for :class:`HEAD`.
        assistants: Configs of :class:`~mmpapers.projects.head.assistants.RCNNAssistant` and
            :class:`~mmpapers.projects.head.assistants.DenseAssistant`; what they must know of the student is filled in.
        ckd: Whether the assistants teach; False trains them beside the student and nothing more.
        ckd_stop_epoch: Epoch (from 0) from which CKD is off: the first drop of the learning rate, 8 of 12
            [secondary source]. None for never.
        proposals: See :class:`HEAD`.
        **kwargs: See :class:`~mmpapers.distill.distiller.Distiller`. Terms: ``assist`` (1) and ``ckd`` (2 after a
            warm-up of 2000 iterations, 0 from ``ckd_stop_epoch`` on), each summed over the assistants.

    Raises:
        DistillError: If there is no assistant, or the student's head is of another kind.
    """

    weights: ClassVar[dict[str, Any]] = dict(assist=1., ckd=WARM)
    needs_teacher: ClassVar[bool] = False

    def __init__(self, student: Any, assistants: list[dict] | None = None, ckd: bool = True,
                 ckd_stop_epoch: int | None = 8, proposals: dict | None = None, **kwargs: Any) -> None:
        if kwargs.get('teacher') is not None:
            raise DistillError('TF-HEAD has no teacher, its assistants teach: drop it or use mmpapers.HEAD')
        self._assistants = [dict(type='mmpapers.RCNNAssistant'), dict(type='mmpapers.DenseAssistant')] \
            if assistants is None else assistants
        if not self._assistants:
            raise DistillError("distill.assistants is empty; name one, dict(type='mmpapers.RCNNAssistant')")
        self.switch(assist=True, ckd=ckd)
        if ckd:
            self.weights['ckd'] = dict(WARM, end_epoch=ckd_stop_epoch)
        self._proposals = {**PROPOSALS, **(proposals or {})}
        super().__init__(student, **kwargs)

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Build the assistants and, from a dry run of each, the adapters of the student."""
        check_head(self.bbox_head)
        levels = student['features']
        built = []
        for spec in self._assistants:
            limit = LEVELS if str(spec.get('type')).endswith('RCNNAssistant') else None
            built.append(MODELS.build({**site(self.bbox_head, levels, limit), **spec}))
        self.helpers['assistants'] = nn.ModuleList(built)
        roi = next((assistant for assistant in built if isinstance(assistant, RCNNAssistant)), None)
        self.proposer = Proposer(roi.rcnn, self._proposals) if roi is not None else None
        if 'ckd' in self.weights:
            self.helpers['ckd'] = nn.ModuleList(self._adapter(student, assistant) for assistant in built)

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Losses of all assistants, and what they teach."""
        sampled = self.sample(seen) if self.proposer is not None else None
        terms = dict.fromkeys(self.weights, 0.)
        for i, assistant in enumerate(self.helpers['assistants']):
            roi = isinstance(assistant, RCNNAssistant)
            losses, hidden = assistant(seen.student['features'], sampled if roi else seen.samples)
            terms['assist'] = terms['assist'] + total(losses)
            self.note(seen, losses, f'assist{i}')
            if 'ckd' not in self.weights:
                continue
            tower = seen.student['tower']
            pairs = [(sampled.gather(tower), hidden[-1][sampled.dense])] if roi else list(zip(tower, hidden))
            errors = [mse(self.helpers['ckd'][i], own, guide.detach()) for own, guide in pairs]
            terms['ckd'] = terms['ckd'] + sum(errors) / len(errors)
        return terms

    def _adapter(self, student: dict[str, list[Tensor]], assistant: nn.Module) -> Connector:
        """From the student's class branch to an R-CNN head's last shared layer, or to a dense head's class branch.

        Both dense heads are the same on all levels, and so is the adapter.
        """
        tower = student['tower'][0]
        if isinstance(assistant, RCNNAssistant):
            width = assistant.bbox_head.shared_fcs[-1].out_features
            return self.link(tower.new_empty(2, tower.shape[1]), tower.new_empty(2, width), 'CKD')
        with torch.no_grad(), assistant.hidden.recording(assistant) as record:
            assistant.bbox_head(tuple(student['features']))
        return self.link(tower, record[assistant.tower][0], 'CKD')
