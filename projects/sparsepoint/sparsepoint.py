"""SparsePoint's detector, https://arxiv.org/abs/2103.10042, first version, without released code; see ``head.py``."""

import torch
from mmdet3d.models.detectors import VoteNet
from torch import Tensor

from mmpapers.registry import MODELS


@MODELS.register_module()
class SparsePointDetector(VoteNet):
    """A point backbone and :class:`SparsePointHead`: VoteNet's frame without votes, and with checked clouds."""

    def extract_feat(self, batch_inputs_dict: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Run the backbone.

        Args:
            batch_inputs_dict: ``points``, clouds (P, 3 + features), P the same for all.

        Returns:
            The backbone's features.

        Raises:
            ValueError: If clouds differ in size, are empty, or hold values that are not finite.
        """
        sizes = {tuple(cloud.shape) for cloud in batch_inputs_dict['points']}
        if len(sizes) > 1 or any(0 in size for size in sizes):
            raise ValueError(f'SparsePointDetector needs clouds of one size with points in them, got {sorted(sizes)}; '
                             "put dict(type='PointSample', num_points=...) into the pipeline")
        clouds = torch.stack(batch_inputs_dict['points'])
        if not torch.isfinite(clouds).all():
            sample = int((~torch.isfinite(clouds)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f'cloud {sample} of the batch has NaN or infinite values; remove those points from its '
                             'file')
        feats = self.backbone(clouds)
        return self.neck(feats) if self.with_neck else feats
