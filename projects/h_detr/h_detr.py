"""H-DETR: DETRs with Hybrid Matching, CVPR 2023, https://arxiv.org/abs/2207.13080.

Official code: https://github.com/HDETR/H-Deformable-DETR (MIT), on the Deformable DETR code base.
Licence note: written anew for mmdet 3; nothing was taken over.
Differences: 80 classes instead of 91 outputs; self-attention is computed set by set instead of with a mask by default.
"""

from typing import Any

import torch
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.models.layers import inverse_sigmoid
from torch import Tensor, nn

from mmpapers.layers.query_sets import QuerySet, QuerySets, QuerySetsMixin, joined, standing_in, take_mask
from mmpapers.projects.h_detr.heads import HybridMatchingHeadMixin
from mmpapers.registry import MODELS


class HybridMatchingMixin(QuerySetsMixin):
    """Adds a one-to-many branch of queries to a deformable detector while it trains; evaluation is the base's own.

    Queries of the branch pass the same decoder and never meet the others. In two-stage detectors the best
    ``num_queries + num_one2many`` proposals start both sets, the best ``num_queries`` of them the one-to-one set, which
    are those that evaluation takes too.

    Args:
        num_one2many: Queries of the one-to-many branch; 1500 in the paper. 0 trains the base detector. Where
            the encoder has too few tokens for all proposals, the branch has as many as are left.
        attention: ``'fold'`` or ``'mask'``, see :func:`~mmpapers.layers.query_sets.separated`.
        *args, **kwargs: Of the base detector.

    Raises:
        ValueError: If ``num_one2many`` is negative, the head cannot train the branch, or the encoder has fewer tokens
            than ``num_queries``.
    """

    def __init__(self, *args: Any, num_one2many: int = 1500, **kwargs: Any) -> None:
        if num_one2many < 0:
            raise ValueError(f'model.num_one2many={num_one2many} is negative; 0 trains the base detector')
        self.num_one2many = num_one2many
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        if self.num_one2many:
            _check(self.bbox_head)
        super()._init_layers()
        if self.num_one2many and hasattr(self, 'query_embedding'):
            self.query_embedding_one2many = nn.Embedding(self.num_one2many, self.query_embedding.embedding_dim)

    def init_weights(self) -> None:
        """The base's initialisation; further queries are drawn like its own."""
        super().init_weights()
        if hasattr(self, 'query_embedding_one2many') and isinstance(self, DINO):
            nn.init.xavier_uniform_(self.query_embedding_one2many.weight)

    def pre_decoder(self, memory: Tensor, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
        """The base's decoder inputs, while training for both sets and with ``query_sets`` for decoder and head."""
        if self.as_two_stage and memory.shape[1] < self.num_queries:
            raise ValueError(f'model.num_queries={self.num_queries} proposals are wanted from an encoder with '
                             f'{memory.shape[1]} tokens; lower num_queries, or take larger images or more levels')
        if not self.training or not self.num_one2many:
            return super().pre_decoder(memory, *args, **kwargs)
        further = self.num_one2many
        if self.as_two_stage:
            further = min(further, memory.shape[1] - self.num_queries)
            inputs, head = self._proposals(further, memory, *args, **kwargs)
        else:
            inputs, head = super().pre_decoder(memory, *args, **kwargs)
            with standing_in(self, dict(query_embedding=self.query_embedding_one2many)):
                other, _ = super().pre_decoder(memory, *args, **kwargs)
            inputs = joined([inputs, other])
        mask = take_mask(inputs)  # denoising queries belong to the one-to-one set, and bring its rules
        sets = QuerySets([QuerySet('one2one', inputs['query'].shape[1] - further, mask),
                          QuerySet('one2many', further)])
        return {**inputs, 'query_sets': sets}, {**head, 'query_sets': sets}

    def _proposals(self, further: int, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
        """Decoder inputs from the best proposals for both sets."""
        own = self.num_queries
        places = {}
        if hasattr(self, 'query_embedding'):
            places['query_embedding'] = _Rows(self.query_embedding, self.query_embedding_one2many, own + further)
        try:
            self.num_queries = own + further
            with standing_in(self, places):
                inputs, head = super().pre_decoder(*args, **kwargs)
        finally:
            self.num_queries = own
        if isinstance(self, DINO):  # which trains its encoder on the proposals that were chosen
            head.update({name: head[name][:, :own] for name in ('enc_outputs_class', 'enc_outputs_coord')})
        return inputs, head


def _check(head: nn.Module) -> None:
    """See that a head can train the one-to-many branch."""
    if not isinstance(head, HybridMatchingHeadMixin):
        raise ValueError(f'model.bbox_head.type={type(head).__name__!r} knows no hybrid matching; take '
                         "'mmpapers.HybridDeformableDETRHead' or 'mmpapers.HybridDINOHead', or model.num_one2many=0")
    if head.scheme != 'branch':
        raise ValueError(f'model.bbox_head.scheme={head.scheme!r} has no one-to-many branch: set model.num_one2many=0 '
                         'and all queries as model.num_queries (1800 in the paper), or take scheme=\'branch\'')


class _Rows(nn.Module):
    """The first rows of two embeddings as one."""

    def __init__(self, first: nn.Embedding, second: nn.Embedding, count: int) -> None:
        super().__init__()
        self.weight = torch.cat([first.weight, second.weight])[:count]


@MODELS.register_module()
class HybridDeformableDETR(HybridMatchingMixin, DeformableDETR):
    """Deformable DETR with hybrid matching and the two tricks of the paper's stronger baselines.

    Args:
        num_one2many: Queries of the one-to-many branch, see :class:`HybridMatchingMixin`.
        mixed_selection: Two-stage only: learned content queries, positions from the proposals (paper; from
            DINO). mmdet's Deformable DETR takes both from the proposals.
        look_forward_twice: Let a layer's box loss reach the layer before (from DINO); needs ``with_box_refine``.
        *args, **kwargs: Of ``mmdet.DeformableDETR``.

    Raises:
        ValueError: If a trick does not fit the detector.
    """

    def __init__(self, *args: Any, mixed_selection: bool = False, look_forward_twice: bool = False, **kwargs: Any
                 ) -> None:
        if mixed_selection and not kwargs.get('as_two_stage'):
            raise ValueError('model.mixed_selection=True needs model.as_two_stage=True: it replaces the content that '
                             'a two-stage detector takes from its proposals')
        if look_forward_twice and not kwargs.get('with_box_refine'):
            raise ValueError('model.look_forward_twice=True needs model.with_box_refine=True: without refinement no '
                             'layer looks at the boxes of another')
        self.mixed_selection = mixed_selection
        self.look_forward_twice = look_forward_twice
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.mixed_selection:
            self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
            if self.num_one2many:
                self.query_embedding_one2many = nn.Embedding(self.num_one2many, self.embed_dims)

    def pre_decoder(self, memory: Tensor, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
        """See :class:`HybridMatchingMixin`; mixed selection puts the learned content in its place."""
        inputs, head = super().pre_decoder(memory, *args, **kwargs)
        if self.mixed_selection:
            content = self.query_embedding.weight
            if 'query_sets' in inputs:
                content = torch.cat([content, self.query_embedding_one2many.weight])[:inputs['query'].shape[1]]
            inputs['query'] = content.expand(len(memory), -1, -1)
        return inputs, head

    def get_proposal_pos_embed(self, proposals: Tensor, num_pos_feats: int | None = None, temperature: int = 10000
                               ) -> Tensor:
        """Sine embedding of proposals; mmdet's has 4 x 128 values whatever the width, so that only 256 channels run."""
        return DeformableDETR.get_proposal_pos_embed(proposals, num_pos_feats or self.embed_dims // 2, temperature)

    def forward_decoder(self, *args: Any, **inputs: Any) -> dict[str, Any]:
        """The decoder; under ``look_forward_twice`` references of training carry the gradient of the layer before."""
        if not (self.look_forward_twice and self.training):
            return super().forward_decoder(*args, **inputs)
        offsets: list[Tensor] = []
        hooks = [branch.register_forward_hook(lambda _, __, output: offsets.append(output.clone()))
                 for branch in self.bbox_head.reg_branches[:self.decoder.num_layers]]
        try:
            outputs = super().forward_decoder(*args, **inputs)
        finally:
            for hook in hooks:
                hook.remove()
        detached = outputs['references']
        references = [detached[0]]
        for offset, reference in zip(offsets, detached):
            base = inverse_sigmoid(reference)
            if base.shape[-1] == 2:  # one-stage detectors begin with points
                base = torch.cat([base, torch.zeros_like(base)], -1)
            references.append((offset + base).sigmoid())
        return {**outputs, 'references': references}


@MODELS.register_module()
class HybridDINO(HybridMatchingMixin, DINO):
    """DINO with hybrid matching; denoising queries stay with the one-to-one set and see neither the branch nor it them.

    Args:
        num_one2many: Queries of the one-to-many branch, see :class:`HybridMatchingMixin`.
        *args, **kwargs: Of ``mmdet.DINO``.
    """
