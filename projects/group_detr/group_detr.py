"""Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment, ICCV 2023, https://arxiv.org/abs/2207.13085.

Official code: branch ``GroupDETR`` of https://github.com/Atten4Vis/ConditionalDETR; the repository named after the
paper holds a README. For DINO and v2 (https://arxiv.org/abs/2211.03594): PaddleDetection (Apache-2.0).
Licence note: written anew for mmdet 3; nothing was taken over.
Differences: groups are folded into the batch for the losses too, which gives the same mean over groups; it stays the
mean where detrex's criterion gives the sum, in steps without any object; Deformable DETR is a base as well.
"""

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmdet.models.detectors import DABDETR, DINO, ConditionalDETR, DeformableDETR
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySet, QuerySets, QuerySetsMixin, joined, standing_in, take_mask
from mmpapers.layers.set_matching import BatchedMatchingHead
from mmpapers.registry import MODELS

_PROPOSALS = ('memory_trans_fc', 'memory_trans_norm')


class QueryGroupsMixin(QuerySetsMixin):
    """Trains a detector with several groups of queries, each matched one to one; evaluation is the base's own.

    The detector's own queries are group 0. Every further group has modules of its own for what decides its queries
    (embeddings; in two-stage detectors also the encoder's output projection and heads, hence its own proposals; in DINO
    also the label embedding and the noise of its denoising queries) and shares encoder, decoder and decoder heads.

    Args:
        num_query_groups: Groups K, the base's own included; 11 in the paper. 1 is the base detector, bit for bit.
        share_proposals: Two-stage detectors: let all groups start from the proposals of group 0, and differ by their
            learned queries alone; saves the encoder heads of the other groups. False as in PaddleDetection.
            Not for Deformable DETR, whose two-stage queries are all made of proposals.
        attention: ``'fold'`` or ``'mask'``, see :func:`~mmpapers.layers.query_sets.separated`.
        *args, **kwargs: Of the base detector; ``num_queries`` is the number of one group.

    Raises:
        ValueError: If ``num_query_groups`` is not positive, ``share_proposals`` is set for a one-stage detector, or
            the groups could not differ.
    """

    def __init__(self, *args: Any, num_query_groups: int = 11, share_proposals: bool = False, **kwargs: Any) -> None:
        if num_query_groups < 1:
            raise ValueError(f'model.num_query_groups={num_query_groups} must be 1 or more (1 is the base detector)')
        super().__init__(*args, **kwargs)
        self.num_query_groups = num_query_groups
        self.share_proposals = share_proposals
        if share_proposals and not getattr(self, 'as_two_stage', False):
            raise ValueError('model.share_proposals=True is for two-stage detectors; this one has no proposals, its '
                             'groups differ by their learned queries. Remove share_proposals')
        self.bbox_head.__class__ = _grouped(type(self.bbox_head))
        own = self._own_modules()
        if not own:
            raise ValueError('model.share_proposals=True leaves nothing in which groups of this two-stage detector '
                             'could differ: it has no learned queries. Take share_proposals=False')
        if num_query_groups > 1:
            self.query_groups = nn.ModuleList(
                nn.ModuleDict({path.replace('.', '-'): copy.deepcopy(self.get_submodule(path)) for path in own})
                for _ in range(num_query_groups - 1))
            self._draw_groups()

    def _own_modules(self) -> list[str]:
        """Paths of the modules that each group has for itself."""
        paths = [path for path in ('query_embedding', 'patterns', 'dn_query_generator.label_embedding')
                 if _has(self, path)]
        if getattr(self, 'as_two_stage', False) and not self.share_proposals:
            last = self.decoder.num_layers
            paths += [*_PROPOSALS, f'bbox_head.cls_branches.{last}', f'bbox_head.reg_branches.{last}']
        return paths

    def init_weights(self) -> None:
        """The base's initialisation; every group is drawn from the same distribution as the base's own."""
        super().init_weights()
        self._draw_groups()

    @torch.no_grad()
    def _draw_groups(self) -> None:
        """Give the groups values of their own: those of group 0, shuffled, which keeps every kind of initialisation.

        Queries are shuffled column by column, because DAB-DETR's columns can differ in distribution; all else as a
        whole, because it can have one row only (a single class or pattern).
        """
        for group in getattr(self, 'query_groups', ()):
            for path, module in group.items():
                own = self.get_submodule(path.replace('-', '.')).state_dict()
                for name, value in module.state_dict().items():
                    value.copy_(_shuffled(own[name], by_column=path == 'query_embedding'))

    def pre_decoder(self, memory: Tensor, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
        """The base's decoder inputs; while training of all groups, with ``query_sets`` for decoder and head."""
        if not self.training or self.num_query_groups == 1:
            return super().pre_decoder(memory, *args, **kwargs)
        made = []
        with _computed_once(self) if self.share_proposals else contextlib.nullcontext():
            made.append(super().pre_decoder(memory, *args, **kwargs))
            for group in self.query_groups:
                with standing_in(self, {path.replace('-', '.'): module for path, module in group.items()}):
                    made.append(super().pre_decoder(memory, *args, **kwargs))
        inputs, head = joined([each for each, _ in made]), dict(made[0][1])
        for name in ('enc_outputs_class', 'enc_outputs_coord'):
            if head.get(name) is not None:  # (B * K, ...), as the heads fold groups
                head[name] = torch.stack([each[name] for _, each in made], 1).flatten(0, 1)
        mask = take_mask(inputs)  # one for all groups: they have the same labels, hence the same layout
        size = made[0][0]['query'].shape[1]
        sets = QuerySets([QuerySet(f'group{index}', size, mask) for index in range(self.num_query_groups)])
        return {**inputs, 'query_sets': sets}, {**head, 'query_sets': sets}


class GroupMatchingMixin:
    """Lets a head match and average every group on its own: groups become images of the batch.

    A detector of this module gives the head that its config names this behaviour (a subclass of the head's class), so
    that the config of the base detector needs no other head.
    """

    def loss(self, hidden_states: Tensor, references: Sequence[Tensor] | Tensor, *args: Any,
             batch_data_samples: Sequence[DetDataSample], query_sets: QuerySets | None = None, **others: Any
             ) -> dict[str, Tensor]:
        """Mean of the groups' losses.

        Args:
            hidden_states: (layers, images, groups * queries, channels).
            references: For each layer (images, groups * queries, 2 or 4); Conditional DETR has one for all layers.
            batch_data_samples: Labels of the images.
            query_sets: The groups; None for one group.
            **others: What the base head takes: encoder outputs and DINO's denoising information, with groups folded.

        Returns:
            The base head's losses. Their normalisers see the labels once for each group, so they are means over groups.
        """
        scale = 1.0
        if query_sets is not None:
            groups = len(query_sets.sets)
            scale = self._mean_of_few(hidden_states, sum(len(each.gt_instances) for each in batch_data_samples), groups)
            hidden_states = _fold(hidden_states, groups, 2)
            if isinstance(references, Tensor):
                references = _fold(references, groups, references.dim() - 2)
            else:
                references = [_fold(reference, groups, 1) for reference in references]
            batch_data_samples = [sample for sample in batch_data_samples for _ in range(groups)]
        losses = super().loss(hidden_states, references, *args, batch_data_samples=batch_data_samples, **others)
        return losses if scale == 1 else {name: loss * scale for name, loss in losses.items()}

    def _mean_of_few(self, like: Tensor, labels: int, groups: int) -> float:
        """What makes losses a mean over groups where labels are so few that mmdet holds its normaliser at 1."""
        count = float(labels)
        if self.sync_cls_avg_factor:
            count = float(reduce_mean(like.new_tensor([count])))
        return max(groups * count, 1) / (groups * max(count, 1))


def _fold(tensor: Tensor, groups: int, dim: int) -> Tensor:
    """(..., B, groups * N, ...) to (..., B * groups, N, ...), where ``dim`` is that of the queries."""
    return tensor.unflatten(dim, (groups, -1)).flatten(dim - 1, dim)


@functools.cache
def _grouped(head: type) -> type:
    """A head's class with group-wise matching."""
    if issubclass(head, GroupMatchingMixin):
        return head
    return types.new_class(f'Group{head.__name__}', (GroupMatchingMixin, head, BatchedMatchingHead))


@contextlib.contextmanager
def _computed_once(model: nn.Module) -> Iterator[None]:
    """Compute a two-stage detector's proposals in the first call only, while the block runs."""
    last, head = model.decoder.num_layers, model.bbox_head
    places = [(model, 'gen_encoder_output_proposals'), (head.cls_branches[last], 'forward'),
              (head.reg_branches[last], 'forward')]
    before = [owner.__dict__.get(name) for owner, name in places]
    try:
        for owner, name in places:
            owner.__dict__[name] = _remembering(getattr(owner, name))
        yield
    finally:
        for (owner, name), own in zip(places, before):
            if own is None:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = own


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers every call as it answered the first."""
    answers: list[Any] = []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if not answers:
            answers.append(function(*args, **kwargs))
        return answers[0]
    return remembered


def _shuffled(values: Tensor, by_column: bool) -> Tensor:
    """The same values in another order."""
    if by_column and len(values) > 1:
        return values.gather(0, torch.rand(values.shape, device=values.device).argsort(0))
    return values.flatten()[torch.randperm(values.numel(), device=values.device)].view_as(values)


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


@MODELS.register_module()
class GroupConditionalDETR(QueryGroupsMixin, ConditionalDETR):
    """Conditional DETR trained with groups of queries, the paper's main setting.

    Args:
        num_query_groups: See :class:`QueryGroupsMixin`.
        *args, **kwargs: Of ``mmdet.ConditionalDETR``.
    """


@MODELS.register_module()
class GroupDABDETR(QueryGroupsMixin, DABDETR):
    """DAB-DETR trained with groups of anchors.

    Args:
        num_query_groups: See :class:`QueryGroupsMixin`.
        *args, **kwargs: Of ``mmdet.DABDETR``.
    """


@MODELS.register_module()
class GroupDeformableDETR(QueryGroupsMixin, DeformableDETR):
    """Deformable DETR, one-stage or two-stage, trained with groups of queries.

    Args:
        num_query_groups: See :class:`QueryGroupsMixin`.
        *args, **kwargs: Of ``mmdet.DeformableDETR``.
    """


@MODELS.register_module()
class GroupDINO(QueryGroupsMixin, DINO):
    """DINO trained with groups of queries, the base of Group DETR v2.

    Args:
        num_query_groups: See :class:`QueryGroupsMixin`.
        *args, **kwargs: Of ``mmdet.DINO``.
    """
