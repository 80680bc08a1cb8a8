"""SparsePoint's proposals: learned positions in the scene's frame and one embedding that all of them share."""

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmpapers.registry import MODELS


@MODELS.register_module()
class LearnableProposals3D(BaseModule):
    """A fixed number of likely object positions, each with the same content.

    Positions start on a jittered grid over the floor, because the shared content gives equal ones no reason to part.

    Args:
        num_proposals: Number N of proposals.
        embed_dims: Width C of the foreground embedding.
        z_range: Lowest and highest initial height, as shares of the scene's.
        jitter: Random shift within the grid's cell, in cells.
        init_cfg: As in mmengine.
    """

    def __init__(self, num_proposals: int, embed_dims: int, z_range: tuple[float, float] = (0.3, 0.5),
                 jitter: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_proposals < 1:
            raise ValueError(f'bbox_head.num_proposals={num_proposals} must be at least 1')
        if not 0 < z_range[0] <= z_range[1] < 1 or not 0 <= jitter < 1:
            raise ValueError(f'bbox_head.proposals needs 0 < z_range[0] <= z_range[1] < 1 and 0 <= jitter < 1, got '
                             f'z_range={z_range} and jitter={jitter}')
        side = math.ceil(math.sqrt(num_proposals))
        cell = torch.arange(num_proposals) * side**2 // num_proposals
        place = torch.stack([cell % side, cell // side], 1) + 0.5 + jitter * (torch.rand(num_proposals, 2) - 0.5)
        height = torch.empty(num_proposals, 1).uniform_(*z_range)
        self.position = nn.Parameter(torch.cat([place / side, height], 1).logit())
        self.content = nn.Parameter(torch.randn(embed_dims) / math.sqrt(embed_dims))

    def forward(self, low: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
        """Place the proposals in scenes.

        Args:
            low: (B, 1, 3), lowest corner of each scene's frame in metres.
            extent: (B, 1, 3), its size.

        Returns:
            Centres (B, N, 3) in metres and contents (B, N, C), which are all alike.
        """
        centre = low + extent * self.position.sigmoid()
        return centre, self.content.expand(*centre.shape[:2], -1)


def scene_frame(points: Tensor, quantile: float = 0.0) -> tuple[Tensor, Tensor]:
    """Find the box along the axes that surrounds a cloud but for outliers.

    Args:
        points: (B, P, 3).
        quantile: Share of the points that may lie beyond each side, below 0.5.

    Returns:
        Lowest corners (B, 3) and sizes (B, 3), at least 1 mm.
    """
    beyond = int(quantile * points.shape[1])
    if beyond:
        low, high = points.sort(1).values[:, [beyond, -1 - beyond]].unbind(1)
    else:
        low, high = points.aminmax(dim=1)
    return low, (high - low).clamp(min=1e-3)
