"""MasKD's second stage: a student learns to reconstruct the teacher's features under masks (header: ``masks.py``)."""

from typing import Any, ClassVar

from mmengine.config import Config
from torch import Tensor
from torch.nn import functional as F

from mmpapers.distill import Distiller, DistillError, Seen
from mmpapers.distill.overlay import expand
from mmpapers.distill.presets import family
from mmpapers.distill.schedule import iteration
from mmpapers.registry import MODELS

from .learner import defaults
from .learning import MaskTraining
from .loss import MasKDLoss
from .masks import load_masks

# Kinds of connector by role, and default weights of the terms: retinanet_r101-retinanet_r50_coco.py and
# fpn_r101-fpn_r50_coco.py under mmrazor/configs/distill/maskd, and segmentation/train_maskd.py, of the official code.
_DETECTION = dict(features='conv', boxes='identity', boxes_initial='identity')
_SEGMENTATION = dict(logits='identity', auxiliary='identity')


@MODELS.register_module()
class MasKD(Distiller):
    """Masked distillation with receptive tokens, for detectors (necks, box outputs) and segmentors (logits).

    Detectors: each neck level passes a 1x1 convolution and is compared under the masks of the teacher's level
    (``maskd``), and raw box outputs are compared as they are (``boxes``). Segmentors: logits are compared under masks
    (``maskd``), those of the auxiliary head with the same masks (``auxiliary``).

    Args:
        masks: ``'learn'``: learn them before the training, in the same run (``LearnMasksHook``), with the settings of
            the official code; ``dict(iters=300, ...)``: with other settings (:class:`~.learning.MaskTraining`); a file;
            or ``'random'`` for untrained tokens.
        num_tokens: Masks a level; by default 6, and 8 for segmentors.
        token_weights: Whether masks have weights; by default for all but segmentors.
        custom_masks: Whether masks are multiplied by those of the student's features; by default for all but
            segmentors.
        custom_mask_warmup: Iteration from which they are (5000 to 8500 of 180,000 in the official configs).
        boxes_beta: Where the loss on box outputs changes from quadratic to linear; 0 is the L1 loss.
        term_weights: By default 7 for ``maskd`` of one-stage detectors and 1 for others, 1 for ``boxes``, and 0.4 for
            ``auxiliary``. A second tap ``boxes_initial`` may be given for heads that predict boxes in two steps.
        **kwargs: See :class:`~mmpapers.distill.Distiller`.
    """

    roles: ClassVar = _DETECTION | _SEGMENTATION
    optional_roles: ClassVar = frozenset({'boxes', 'boxes_initial', 'auxiliary'})
    weights: ClassVar = dict(maskd=1., boxes=1., boxes_initial=1., auxiliary=0.4)
    hooks: ClassVar = ('mmpapers.LearnMasksHook',)

    def __init__(self, *args: Any, masks: str | dict = 'learn', num_tokens: int | None = None,
                 token_weights: bool | None = None, custom_masks: bool | None = None, custom_mask_warmup: int = 5000,
                 boxes_beta: float = 1., term_weights: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.masked_role, tokens, weighted = defaults(self)
        self.segmentation = self.masked_role == 'logits'
        self.mask_file = masks if isinstance(masks, str) else 'learn'
        self.mask_training = MaskTraining.build(masks if isinstance(masks, dict) else {}, self.segmentation) \
            if self.mask_file == 'learn' else None
        self.num_tokens = num_tokens or tokens
        self.token_weights = weighted if token_weights is None else token_weights
        self.custom_masks = not self.segmentation if custom_masks is None else custom_masks
        self.custom_mask_warmup = custom_mask_warmup
        self.boxes_beta = boxes_beta
        self.roles = _SEGMENTATION if self.segmentation else _DETECTION
        names = dict(maskd=self.masked_role) | {role: role for role in self.roles if role != self.masked_role}
        self.weights = {term: MasKD.weights[term] for term in names}
        if family(self) == 'dense':
            self.weights['maskd'] = 7.
        super().__init__(*args, term_weights=term_weights, **kwargs)
        absent = [term for term, role in names.items() if role not in self.taps_of['student']]
        if stated := [term for term in absent if term in (term_weights or {})]:
            raise DistillError(f'distill.term_weights gives a weight to {stated[0]!r}, which is tapped nowhere; say '
                               f'where it is: distill.taps=dict({names[stated[0]]}=...)')
        for term in absent:
            del self.weights[term], self.term_weights[term]

    @property
    def mask_tap(self) -> str:
        """The teacher's module that is masked."""
        return self.taps_of['teacher'][self.masked_role]

    def finish(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Build the masks, and load them if a file is given.

        Raises:
            DistillError: If the teacher's tap gives no maps, or the file does not fit.
        """
        maps = teacher[self.masked_role]
        if any(level.dim() != 4 for level in maps):
            raise DistillError(f'distill.taps.{self.masked_role}: MasKD masks maps (B, C, H, W); {self.mask_tap!r} '
                               f'gives {[tuple(level.shape) for level in maps]}')
        loss = MasKDLoss([level.shape[1] for level in maps], self.num_tokens, self.token_weights,
                         *((1e-5, 0.5) if self.segmentation else (1e-6, 1.)))
        if self.mask_file not in ('learn', 'random'):
            load_masks(loss.masks, self.mask_file, self.teacher.model)
        loss.learned.fill_(self.mask_file != 'learn')
        self.helpers['maskd'] = loss

    def objective(self, seen: Seen) -> dict[str, Tensor]:
        """Compare features or logits under masks, and box outputs as they are.

        Raises:
            DistillError: If masks were to be learned and were not.
        """
        loss = self.helpers['maskd']
        if not loss.learned:
            raise DistillError("distill.masks='learn', and nobody learned them: add custom_hooks = "
                               "[dict(type='mmpapers.LearnMasksHook')] (tools/train.py does so for the short form), or "
                               "give a file, masks='masks.pth'")
        customise = self.custom_masks and iteration() >= self.custom_mask_warmup
        terms = dict(maskd=loss(*zip(*seen.pairs(self.masked_role)), customise=customise))
        for role in self.weights:
            if role == 'auxiliary':
                terms[role] = loss(*zip(*seen.pairs(role)), customise=customise)
            elif role != 'maskd':
                terms[role] = sum(F.smooth_l1_loss(student, teacher, beta=self.boxes_beta, reduction='sum')
                                  / max(student.numel(), 1) for student, teacher in seen.pairs(role))
        return terms


def first_stage(cfg: Config, masks: str | None = None) -> dict[str, Any]:
    """The first stage's model that belongs to a config.

    Args:
        cfg: Config of the first stage, or of a student that is distilled with MasKD; its short form is expanded.
        masks: File of masks; by default what the config says.

    Returns:
        ``dict(type='mmpapers.MaskLearner', ...)``.

    Raises:
        DistillError: If the config is neither, or no masks are known.
    """
    expand(cfg)
    model = dict(cfg.model)
    kind = str(model.get('type')).rpartition('.')[2]
    if kind == 'MasKD':
        taps = dict(model.get('taps') or {})
        tap = taps.get('features') or taps.get('logits')
        given = model.get('masks')
        model = dict(type='mmpapers.MaskLearner', tap=tap if isinstance(tap, str | None) else tap.get('teacher'),
                     masks=given if isinstance(given, str) and given not in ('learn', 'random') else None,
                     **{key: model[key] for key in ('teacher', 'checkpoint', 'num_tokens', 'token_weights', 'strict')
                        if key in model})
    elif kind != 'MaskLearner':
        raise DistillError(f'model.type={model.get("type")!r} is neither mmpapers.MaskLearner nor mmpapers.MasKD')
    model['masks'] = masks or model.get('masks')
    if model['masks'] is None:
        raise DistillError('which masks? Give their file, <work dir of the run>/masks.pth')
    return model
