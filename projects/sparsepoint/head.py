"""SparsePoint: Fully End-to-End Sparse 3D Object Detector, 2021, https://arxiv.org/abs/2103.10042

This is the first version of the paper, without released code; the later one, "Suppress-and-Refine", is another detector
with code (ZJULearning/SRDet). The abstract says: a fixed number of learnable proposals for likely positions, one
foreground embedding shared by all of them, attention between proposals, one-to-one assignment, no suppression
afterwards. How proposals gather features, the stages, losses and all numbers are our choice, 3DETR's where it has any.
"""

import math

import torch
from mmdet3d.models.layers import aligned_3d_nms
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpapers.layers.set_criterion3d import BoxQueries, BoxTargets, yaw_of_bins
from mmpapers.projects.sparsepoint.proposals import scene_frame
from mmpapers.projects.sparsepoint.stage import SparsePointStage
from mmpapers.registry import MODELS

CRITERION = {
    'type': 'mmpapers.SetCriterion3D',
    'assigner': {
        'type': 'mmpapers.HungarianAssigner3D',
        'costs': [{'type': 'mmpapers.SoftmaxCost3D', 'weight': 1.0}, {'type': 'mmpapers.CenterL1Cost', 'weight': 5.0},
                  {'type': 'mmpapers.IoU3DCost', 'weight': 2.0}]},
    'weights': {'iou': 2.0},
    'no_object_weight': 0.1}


@MODELS.register_module()
class SparsePointHead(BaseModule):
    """Refine a small set of learned proposals to boxes, stage by stage, and learn from a one-to-one matching.

    Args:
        num_classes: Foreground classes.
        in_channels: Channels of the backbone's seeds.
        embed_dims: Width of the proposals.
        num_proposals: Proposals of every scene; at least the number of objects in it.
        num_stages: Decoder stages.
        num_heads: Heads of all attentions.
        num_neighbors: Seeds that a proposal looks at, with ``gather='local'``.
        ffn_channels: Width of the feed-forward layers.
        dropout: Of attention and feed-forward layers.
        gather: ``'local'`` attends to the nearest seeds, with a bias by relative position; ``'global'`` to all.
        object_attention: Whether proposals attend to each other; without, duplicates are not suppressed.
        num_dir_bins: Bins of yaw; 0 for boxes along the axes.
        scene_quantile: Share of the points at each end of an axis that may lie outside the scene's frame, so that
            outliers do not stretch it.
        proposals: Config of the proposals; number and width are filled in.
        criterion: Config of the losses.
        train_cfg: Unused; mmdet3d passes it.
        test_cfg: ``score_thr`` (0.05), ``use_nms`` (False) and ``nms_thr`` (0.25), the IoU of the boxes around boxes
            of one class above which only the best is kept.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int = 256,
                 embed_dims: int = 256,
                 num_proposals: int = 256,
                 num_stages: int = 6,
                 num_heads: int = 8,
                 num_neighbors: int = 64,
                 ffn_channels: int = 1024,
                 dropout: float = 0.1,
                 gather: str = 'local',
                 object_attention: bool = True,
                 num_dir_bins: int = 0,
                 scene_quantile: float = 0.0,
                 proposals: dict | None = None,
                 criterion: dict = CRITERION,
                 train_cfg: dict | None = None,
                 test_cfg: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if gather not in ('local', 'global'):
            raise ValueError(f"bbox_head.gather is {gather!r}; it can be 'local' or 'global'")
        if embed_dims % num_heads:
            raise ValueError(f'bbox_head.embed_dims={embed_dims} is no multiple of bbox_head.num_heads={num_heads}')
        if not 0 <= scene_quantile < 0.5:
            raise ValueError(f'bbox_head.scene_quantile={scene_quantile} must be at least 0 and less than 0.5')
        self.num_classes = num_classes
        self.num_dir_bins = num_dir_bins
        self.scene_quantile = scene_quantile
        self.test_cfg = {'score_thr': 0.05, 'use_nms': False, 'nms_thr': 0.25, **(test_cfg or {})}
        self.proposals = MODELS.build({'type': 'mmpapers.LearnableProposals3D', 'num_proposals': num_proposals,
                                       'embed_dims': embed_dims, **(proposals or {})})
        self.input = nn.Linear(in_channels, embed_dims)
        self.position = nn.Sequential(nn.Linear(3, embed_dims), nn.ReLU(), nn.Linear(embed_dims, embed_dims))
        self.stages = nn.ModuleList(
            SparsePointStage(embed_dims, num_heads, num_neighbors if gather == 'local' else None, ffn_channels, dropout,
                             object_attention) for _ in range(num_stages))
        self.classifiers = nn.ModuleList(_branch(embed_dims, num_classes + 1) for _ in range(num_stages))
        self.regressors = nn.ModuleList(_branch(embed_dims, 6 + 2 * num_dir_bins) for _ in range(num_stages))
        for regressor in self.regressors:  # boxes of 0.8 m start at the proposals
            nn.init.normal_(regressor[-1].weight, std=0.01)
            nn.init.zeros_(regressor[-1].bias)
            nn.init.constant_(regressor[-1].bias[3:6], math.log(0.8))
        self.criterion = MODELS.build(criterion)

    def forward(self, feats: dict[str, list[Tensor]]) -> list[BoxQueries]:
        """Predict from a PointNet++ backbone's features.

        Args:
            feats: ``sa_xyz[0]``, the cloud (B, P, 3) in metres; ``fp_xyz[-1]`` and ``fp_features[-1]``, seeds
                (B, S, 3) and (B, in_channels, S).

        Returns:
            Predictions of each stage: logits (B, N, classes + 1), boxes (B, N, 7), and with bins those of yaw.
        """
        low, extent = scene_frame(feats['sa_xyz'][0], self.scene_quantile)
        low, extent = low[:, None], extent[:, None]
        seeds = feats['fp_xyz'][-1]
        seed_features = self.input(feats['fp_features'][-1].transpose(1, 2))
        centre, content = self.proposals(low, extent)
        seed_codes = self.position((seeds - low) / extent)
        found = []
        for stage, classifier, regressor in zip(self.stages, self.classifiers, self.regressors):
            code = self.position((centre - low) / extent)
            content = stage(content, code, centre, seeds, seed_features, seed_codes)
            found.append(self._boxes(classifier(content), regressor(content), centre))
            centre = found[-1].boxes[..., :3].detach()
        return found

    def _boxes(self, logits: Tensor, values: Tensor, centre: Tensor) -> BoxQueries:
        """Decode what the branches say, (B, N, ...)."""
        offset, size, direction = values.split([3, 3, 2 * self.num_dir_bins], -1)
        size = size.clamp(max=4).exp()
        if not self.num_dir_bins:
            return BoxQueries(logits, torch.cat([centre + offset, size, torch.zeros_like(size[..., :1])], -1))
        dir_logits, residuals = direction.chunk(2, -1)
        best = dir_logits.argmax(-1, keepdim=True)
        yaw = yaw_of_bins(best, residuals.gather(-1, best), self.num_dir_bins)
        return BoxQueries(logits, torch.cat([centre + offset, size, yaw], -1), dir_logits, residuals)

    def loss(self, points: list[Tensor], feats: dict[str, list[Tensor]], batch_data_samples: list,
             **kwargs) -> dict[str, Tensor]:
        """Compute the losses of all stages; centres are compared in units of the scene's diagonal.

        Args:
            points: Unused; the backbone hands on the cloud.
            feats: As for :meth:`forward`.
            batch_data_samples: With ``gt_instances_3d``.
            **kwargs: Unused; mmdet3d passes them.
        """
        _, extent = scene_frame(feats['sa_xyz'][0], self.scene_quantile)
        scale = extent.norm(dim=1, keepdim=True).expand(-1, 3)
        targets = BoxTargets.pad([sample.gt_instances_3d for sample in batch_data_samples], scale)
        return self.criterion(self(feats), targets)

    def predict(self, points: list[Tensor], feats: dict[str, list[Tensor]], batch_data_samples: list,
                **kwargs) -> list[InstanceData]:
        """Give the boxes of the last stage; see :meth:`loss` for the arguments."""
        return self.predict_by_feat(self(feats)[-1], [sample.metainfo for sample in batch_data_samples])

    def predict_by_feat(self, queries: BoxQueries, batch_input_metas: list[dict]) -> list[InstanceData]:
        """Take each proposal's best class, and those with a sufficient score.

        Args:
            queries: Predictions of the last stage.
            batch_input_metas: With ``box_type_3d``.

        Returns:
            ``bboxes_3d``, ``scores_3d`` and ``labels_3d`` of each scene, best first.
        """
        best, label = queries.logits.softmax(-1)[..., :-1].max(-1)
        results = []
        for box, score, cls, meta in zip(queries.boxes, best, label, batch_input_metas):
            order = score.argsort(descending=True)
            order = order[score[order] > self.test_cfg['score_thr']]
            boxes = meta['box_type_3d'](box[order], box_dim=7, with_yaw=queries.rotated, origin=(0.5, 0.5, 0.5))
            if self.test_cfg['use_nms'] and len(order):
                corners = boxes.corners
                around = torch.cat([corners.amin(1), corners.amax(1)], 1)
                kept = aligned_3d_nms(around, score[order], cls[order], self.test_cfg['nms_thr'])
                boxes, order = boxes[kept], order[kept]
            results.append(InstanceData(bboxes_3d=boxes, scores_3d=score[order], labels_3d=cls[order]))
        return results


def _branch(channels: int, out: int) -> nn.Sequential:
    """Two layers with a norm between."""
    return nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, out))
