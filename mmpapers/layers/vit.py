"""Plain ViT as a detector's backbone: attention inside windows, but for a few blocks that see the whole image.

Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), Li et al., ECCV 2022,
https://arxiv.org/abs/2203.16527; decomposed relative positions from MViTv2, Li et al., CVPR 2022, arXiv 2112.01526.
Official code: facebookresearch/detectron2, detectron2/modeling/backbone/vit.py (Apache-2.0, nothing is copied).
Differences: any image size is taken, padded to whole patches with zeros; attention is torch's fused one, with
relative positions as channels of query and key; residual convolution blocks are left out; checkpoints of MAE and timm
are read as they are, also of another patch size.
As released: tokens that fill up the last windows are zeros after the norm, and are attended to like all others.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpapers.registry import MODELS

# What a classifier or an autoencoder has besides the encoder.
_FOREIGN = ('cls_token', 'mask_token', 'pos_embed', 'norm.', 'fc_norm.', 'head.', 'decoder_')


def split_windows(x: Tensor, size: int) -> Tensor:
    """Cut a map into square windows; the last row and column are filled up with zeros.

    Args:
        x: (B, H, W, C).
        size: Side of a window, in tokens.

    Returns:
        (B * windows, size, size, C), windows of an image in reading order.
    """
    batch, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.view(batch, x.shape[1] // size, size, x.shape[2] // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size, size, channels)


def join_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`split_windows`: (B * windows, size, size, C) to (B, height, width, C)."""
    size, channels = windows.shape[1], windows.shape[3]
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    x = windows.view(-1, rows, columns, size, size, channels).transpose(2, 3)
    return x.reshape(-1, rows * size, columns * size, channels)[:, :height, :width]


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Look up the embedding of each offset along one axis.

    Args:
        table: (2 N - 1, C), embeddings of the offsets 1 - N to N - 1; interpolated linearly where ``size`` is not N.
        size: Length of the axis, in tokens.

    Returns:
        (size, size, C); entry i, j is that of the offset i - j.
    """
    index = torch.arange(size, device=table.device)
    return _resize_table(table, 2 * size - 1)[index[:, None] - index + size - 1]


def _resize_table(table: Tensor, length: int) -> Tensor:
    """Interpolate (L, C) to (length, C)."""
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], size=length, mode='linear')[0].T


def _resize_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate (N, C, H, W) to (N, C, *size)."""
    if grid.shape[2:] == size:
        return grid
    return F.interpolate(grid, size=size, mode='bicubic', align_corners=False)


class WindowAttention(nn.Module):
    """Multi-head self-attention over a map, with relative positions of the two axes.

    Args:
        embed_dims: Channels.
        num_heads: Heads.
        size: Side of the map, in tokens, that the tables of relative positions are made for; None for no tables.
        qkv_bias: Whether queries, keys and values have a bias.
    """

    def __init__(self, embed_dims: int, num_heads: int, size: int | None, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.rel_pos_h = self.rel_pos_w = None
        if size:
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(torch.zeros(2 * size - 1, embed_dims // num_heads)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all tokens of each map, (B, H, W, C) to (B, H, W, C)."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, HW, C / heads)
        depth, scale = query.shape[-1], query.shape[-1]**-0.5
        if self.rel_pos_h is not None:
            query, key = self._append_positions(query, key, height, width)
            scale = 1.
            value = F.pad(value, (0, query.shape[-1] - depth))  # fused kernels want one width
        x = F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :depth]
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, channels))

    def _append_positions(self, query: Tensor, key: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Append channels whose product adds the biases of relative positions to the scaled product of the others.

        The query gets its products with the embeddings of all rows and columns, the key says by ones which row and
        column it is of. So no (HW, HW) matrix of biases has to exist, as a mask would be. Zeros fill up to a multiple
        of 8 channels, which the fused kernels of GPUs ask for.

        Args:
            query: (B, heads, height * width, D).
            key: As the query.
            height: Rows of the map.
            width: Columns of the map.

        Returns:
            Query, scaled, and key, each (B, heads, height * width, D + height + width, or up to 7 more).
        """
        depth = query.shape[-1]
        grid = query.unflatten(2, (height, width))
        rows = torch.einsum('bnhwc,hkc->bnhwk', grid, relative_positions(self.rel_pos_h, height))
        columns = torch.einsum('bnhwc,wkc->bnhwk', grid, relative_positions(self.rel_pos_w, width))
        place = torch.arange(height * width, device=key.device)
        ones = torch.cat([F.one_hot(place // width, height), F.one_hot(place % width, width)], 1).to(key.dtype)
        fill = (0, -(depth + height + width) % 8)
        query = torch.cat([query * depth**-0.5, rows.flatten(2, 3), columns.flatten(2, 3)], 3)
        return F.pad(query, fill), F.pad(torch.cat([key, ones.expand(*key.shape[:2], -1, -1)], 3), fill)


class ViTBlock(nn.Module):
    """Attention in windows or over the whole map, then an MLP, each behind a norm and around a shortcut.

    Args:
        embed_dims: Channels.
        num_heads: Heads.
        window_size: Side of a window, in tokens; None for the whole map.
        rel_pos_size: See ``size`` of :class:`WindowAttention`.
        mlp_ratio: Width of the MLP relative to ``embed_dims``.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path: Probability of leaving out a branch for an image.
        norm_cfg: Norm of tokens.
        act_cfg: Activation of the MLP.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int | None, rel_pos_size: int | None,
                 mlp_ratio: float, qkv_bias: bool, drop_path: float, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        width = int(embed_dims * mlp_ratio)
        self.window_size = window_size
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = WindowAttention(embed_dims, num_heads, rel_pos_size, qkv_bias)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.mlp = nn.Sequential(OrderedDict(
            fc1=nn.Linear(embed_dims, width), act=build_activation_layer(act_cfg), fc2=nn.Linear(width, embed_dims)))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, C) to (B, H, W, C)."""
        y = self.norm1(x)
        if self.window_size:
            y = join_windows(self.attn(split_windows(y, self.window_size)), *x.shape[1:3])
        else:
            y = self.attn(y)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class WindowViT(BaseModule):
    """Plain ViT of ViTDet: one map of one stride out of blocks that attend in windows, but for a few global ones.

    Parameters are named as in MAE and timm, so ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes their files
    as they are. Every weight has to be found; position embeddings and patch filters of other sizes are interpolated.
    Only relative positions, which those models lack, stay 0, which is no bias at all.

    Args:
        img_size: Side, in pixels, of the square image that the relative positions of global blocks are made for;
            interpolated to others. 1024 in ViTDet.
        patch_size: Side of a patch, in pixels; the stride of the map.
        in_channels: Channels of the image.
        embed_dims: Channels; 768, 1024, 1280 for ViT-B, L, H.
        depth: Blocks; 12, 24, 32.
        num_heads: Heads; 12, 16, 16.
        mlp_ratio: Width of the MLPs relative to ``embed_dims``.
        qkv_bias: Whether queries, keys and values have a bias.
        window_size: Side of the windows, in tokens. 14 in ViTDet, the whole image of pre-training.
        global_blocks: Indices of the blocks without windows; in ViTDet four, spread evenly.
        use_abs_pos: Whether position embeddings are added to patches; interpolated (bicubic) to the image's size.
        use_rel_pos: Whether attention has relative positions.
        pretrain_img_size: Side, in pixels, of the images that the position embeddings are made for: the grid has
            ``pretrain_img_size // patch_size`` positions a side.
        drop_path_rate: Probability of leaving out a branch in the last block; grows linearly from 0 in the first.
        norm_cfg: Norm of tokens.
        act_cfg: Activation of the MLPs.
        with_cp: Whether to compute blocks again in the backward pass, which saves memory.
        init_cfg: None, or that of a checkpoint, with an optional ``prefix`` of its keys.
    """

    def __init__(self,
                 img_size: int = 1024,
                 patch_size: int = 16,
                 in_channels: int = 3,
                 embed_dims: int = 768,
                 depth: int = 12,
                 num_heads: int = 12,
                 mlp_ratio: float = 4.,
                 qkv_bias: bool = True,
                 window_size: int = 14,
                 global_blocks: Sequence[int] = (2, 5, 8, 11),
                 use_abs_pos: bool = True,
                 use_rel_pos: bool = True,
                 pretrain_img_size: int = 224,
                 drop_path_rate: float = 0.1,
                 norm_cfg: dict = dict(type='LN', eps=1e-6),  # noqa: B006
                 act_cfg: dict = dict(type='GELU'),  # noqa: B006
                 with_cp: bool = False,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ValueError(f'WindowViT: embed_dims={embed_dims} is not a multiple of num_heads={num_heads}.')
        outside = [i for i in global_blocks if not 0 <= i < depth]
        if outside:
            raise ValueError(f'WindowViT: global_blocks names {outside}, but depth={depth} blocks are numbered '
                             f'0 to {depth - 1}.')
        if init_cfg and (not isinstance(init_cfg, Mapping) or init_cfg.get('type') != 'Pretrained'):
            raise ValueError(f"WindowViT: init_cfg takes dict(type='Pretrained', checkpoint=...), got {init_cfg}.")
        self.patch_size = patch_size
        self.with_cp = with_cp
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.grid = pretrain_img_size // patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, embed_dims)) if use_abs_pos else None
        self.blocks = nn.ModuleList()
        for i in range(depth):
            window = None if i in global_blocks else window_size
            self.blocks.append(ViTBlock(
                embed_dims, num_heads, window, (window or img_size // patch_size) if use_rel_pos else None,
                mlp_ratio, qkv_bias, drop_path_rate * i / max(depth - 1, 1), norm_cfg, act_cfg))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map images (B, 3, H, W) to one map (B, C, ceil(H / patch), ceil(W / patch))."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        x = self.patch_embed.proj(x)
        if self.pos_embed is not None:
            grid = self.pos_embed.transpose(1, 2).unflatten(2, (self.grid, self.grid))
            x = x + _resize_grid(grid, x.shape[2:])
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            if self.with_cp and x.requires_grad:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return (x.permute(0, 3, 1, 2), )

    def init_weights(self) -> None:
        """Draw the weights, or read them from the checkpoint of ``init_cfg``.

        Raises:
            ValueError: If the checkpoint is not one of such a plain ViT; the message names what is missing or too
                much.
        """
        if not self.init_cfg:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            if self.pos_embed is not None:
                nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            name = self.init_cfg['checkpoint']
            weights = CheckpointLoader.load_checkpoint(name, map_location='cpu', logger='current')
            self.load_plain_vit(weights, name, self.init_cfg.get('prefix'))
            if hasattr(self, '_params_init_info'):
                update_init_info(self, f'PretrainedInit: load from {name}')
        self._is_init = True

    def load_plain_vit(self, weights: Mapping, name: str = 'the checkpoint', prefix: str | None = None) -> list[str]:
        """Load the encoder of MAE, timm, or of a detector that has this backbone.

        Args:
            weights: Content of the file: a state dict, or a dict that holds one as ``model`` or ``state_dict``.
            name: What to call it in messages.
            prefix: What stands before the encoder's keys; by default found by ``patch_embed.proj.weight``.

        Returns:
            Parameters that the checkpoint lacks and that stay as they are: relative positions, or none.

        Raises:
            ValueError: See :meth:`init_weights`.
        """
        weights = weights.get('state_dict', weights.get('model', weights))
        state, foreign = self._fit(_strip(weights, name, prefix))
        own = self.state_dict()
        absent = [key for key in own if key not in state]
        lost = [key for key in absent if '.rel_pos_' not in key]
        surplus = [key for key in state if key not in own]
        shapes = [f'{key} {tuple(state[key].shape)}, here {tuple(own[key].shape)}'
                  for key in state if key in own and state[key].shape != own[key].shape]
        faults = [f'{what}: {", ".join(keys[:4])}{f" and {len(keys) - 4} more" if len(keys) > 4 else ""}'
                  for what, keys in (('lacks', lost), ('has besides', surplus), ('differs in', shapes)) if keys]
        if faults:
            raise ValueError(f'WindowViT: {name} does not hold this ViT; it {"; it ".join(faults)}. Compare '
                             'embed_dims, depth and qkv_bias; only plain ViTs as of MAE and timm can be read.')
        self.load_state_dict(state, strict=False)
        print_log(f'WindowViT: {len(state)} tensors read from {name}; not used: {foreign or "none"}; '
                  f'not in it, left as they are: {f"{len(absent)} relative positions" if absent else "none"}',
                  logger='current')
        return absent

    def _fit(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Interpolate what depends on sizes; set apart what belongs to another task."""
        own = self.state_dict()
        fitted, foreign = {}, []
        for key, value in state.items():
            if key == 'pos_embed' and key in own:
                value = self._fit_positions(value)
            elif key == 'patch_embed.proj.weight' and value.dim() == 4:
                value = _resize_grid(value.float(), own[key].shape[2:])
            elif '.rel_pos_' in key and key in own and value.dim() == 2:
                value = _resize_table(value.float(), len(own[key]))
            elif key.startswith(_FOREIGN):
                foreign.append(key)
                continue
            fitted[key] = value
        return fitted, foreign

    def _fit_positions(self, embedding: Tensor) -> Tensor:
        """Drop the class token's position, if there is one, and interpolate (1, N, C) to this model's grid."""
        count = embedding.shape[1]
        side = math.isqrt(count)
        extra = count - side**2  # a square plus one is no square
        if extra > 1:
            raise ValueError(f'WindowViT: pos_embed of the checkpoint has {count} positions, neither a square nor one '
                             'more for a class token.')
        grid = embedding[:, extra:].float().transpose(1, 2).unflatten(2, (side, side))
        return _resize_grid(grid, (self.grid, self.grid)).flatten(2).transpose(1, 2)


def _strip(weights: Mapping[str, Tensor], name: str, prefix: str | None) -> dict[str, Tensor]:
    """Keys of the encoder without what stands before them."""
    anchor = 'patch_embed.proj.weight'
    if prefix is None:
        found = [key[:-len(anchor)] for key in weights if isinstance(key, str) and key.endswith(anchor)]
        if len(found) != 1:
            raise ValueError(f'WindowViT: {name} is not a checkpoint of one plain ViT: {len(found)} keys end in '
                             f'{anchor!r}. It has {", ".join(map(str, list(weights)[:4]))}, ... Name the encoder by '
                             "init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...).")
        prefix = found[0]
    prefix = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix
    return {key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)}
