"""One decoder stage of SparsePoint: proposals look at each other, then at the scene; all of it is our reading."""

import torch
from torch import Tensor, nn


class LocalAttention3D(nn.Module):
    """Attend to the seeds next to a point; what RoI features are to boxes in Sparse R-CNN.

    The relative position of a seed adds to its weight and to its value, so that a proposal learns where the surfaces
    around it are. Apart from the search for neighbours nothing has the size of proposals times seeds.

    Args:
        channels: Width C of queries and seeds.
        num_heads: Heads.
        num_neighbors: Seeds K that each query sees.
        position_channels: Width of the layer that reads relative positions.
    """

    def __init__(self, channels: int, num_heads: int, num_neighbors: int, position_channels: int = 64) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_neighbors = num_neighbors
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.offset = nn.Sequential(nn.Linear(3, position_channels), nn.ReLU())
        self.bias = nn.Linear(position_channels, num_heads)
        self.place = nn.Parameter(torch.empty(num_heads, position_channels, channels // num_heads))
        nn.init.xavier_uniform_(self.place)
        self.out = nn.Linear(channels, channels)

    def forward(self, query: Tensor, centre: Tensor, seeds: Tensor, features: Tensor) -> Tensor:
        """Gather what lies around.

        Args:
            query: (B, N, C).
            centre: (B, N, 3), positions of the queries in metres.
            seeds: (B, S, 3).
            features: (B, S, C).

        Returns:
            (B, N, C).

        Raises:
            ValueError: If there are fewer seeds than neighbours.
        """
        number = seeds.shape[1]
        if number < self.num_neighbors:
            raise ValueError(f'bbox_head.num_neighbors={self.num_neighbors}, but the backbone gives {number} seeds; '
                             f'set it to {number} or less, or raise backbone.num_points')
        with torch.no_grad():
            near = torch.cdist(centre, seeds).topk(self.num_neighbors, largest=False).indices  # (B, N, K)
            near = near + number * torch.arange(len(near), device=near.device)[:, None, None]
        key, value = (part.unflatten(-1, (self.num_heads, -1))  # (B, N, K, H, D)
                      for part in _rows(self.key_value(features), near).chunk(2, -1))
        query = self.query(query).unflatten(-1, (self.num_heads, -1))  # (B, N, H, D)
        hidden = self.offset(_rows(seeds, near) - centre[:, :, None])  # (B, N, K, P)
        weight = torch.einsum('bnhd,bnkhd->bnhk', query, key) * query.shape[-1]**-0.5
        weight = (weight + self.bias(hidden).transpose(2, 3)).softmax(-1)
        found = torch.einsum('bnhk,bnkhd->bnhd', weight, value)
        found = found + torch.einsum('bnhp,hpd->bnhd', weight @ hidden, self.place)
        return self.out(found.flatten(2))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, S, C) named by indices (B, N, K) into its B S rows: (B, N, K, C)."""
    return table.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)


class SparsePointStage(nn.Module):
    """Attention between proposals, attention to the scene, feed-forward layer; each added and normalised.

    Args:
        channels: Width C.
        num_heads: Heads.
        num_neighbors: Seeds that a proposal sees; ``None`` for all of them.
        ffn_channels: Width of the feed-forward layer.
        dropout: Of attention weights between proposals or to all seeds, and of the feed-forward layer.
        object_attention: Whether proposals see each other.
    """

    def __init__(self, channels: int, num_heads: int, num_neighbors: int | None, ffn_channels: int, dropout: float,
                 object_attention: bool) -> None:
        super().__init__()
        self.objects = _attention(channels, num_heads, dropout) if object_attention else None
        self.local = num_neighbors is not None
        self.scene = LocalAttention3D(channels, num_heads, num_neighbors) if self.local else _attention(
            channels, num_heads, dropout)
        self.ffn = nn.Sequential(nn.Linear(channels, ffn_channels), nn.ReLU(), nn.Dropout(dropout),
                                 nn.Linear(ffn_channels, channels), nn.Dropout(dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3 if object_attention else 2))

    def forward(self, content: Tensor, code: Tensor, centre: Tensor, seeds: Tensor, features: Tensor,
                seed_codes: Tensor) -> Tensor:
        """Refine the proposals' contents.

        Args:
            content: (B, N, C).
            code: (B, N, C), of the proposals' positions.
            centre: (B, N, 3), these positions in metres.
            seeds: (B, S, 3).
            features: (B, S, C), of the seeds.
            seed_codes: (B, S, C), of the seeds' positions.

        Returns:
            (B, N, C).
        """
        if self.objects is not None:
            query = content + code  # values too: contents are all alike at first
            content = self.norms[2](content + self.objects(query, query, query, need_weights=False)[0])
        query = content + code
        if self.local:
            found = self.scene(query, centre, seeds, features)
        else:
            memory = features + seed_codes
            found = self.scene(query, memory, memory, need_weights=False)[0]
        content = self.norms[0](content + found)
        return self.norms[1](content + self.ffn(content))


def _attention(channels: int, num_heads: int, dropout: float) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
