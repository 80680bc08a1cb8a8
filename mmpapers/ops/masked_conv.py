"""Masked convolution (Verelst's and Guided Anchoring's sparse inference): columns of the chosen pixels only."""

import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor, kernel_h: int,
                          kernel_w: int, pad_h: int, pad_w: int) -> None:
    """Copy the windows around chosen pixels, stride 1, zeros outside the map.

    Args:
        im: (1, C, H, W).
        mask_h_idx: (n,) int64 rows; the window of row h begins at ``h - pad_h``.
        mask_w_idx: (n,) int64 columns.
        col: (C * kernel_h * kernel_w, n), written.
        kernel_h, kernel_w, pad_h, pad_w: Of the convolution.

    Raises:
        ValueError: If the shapes do not fit.
    """
    wanted = im.shape[1] * kernel_h * kernel_w, len(mask_h_idx)
    if im.dim() != 4 or len(im) != 1 or tuple(col.shape) != wanted:
        raise ValueError(f'masked_im2col_forward: im must be one image (1, C, H, W) and col (C * kernel_h * kernel_w, '
                         f'n) = {wanted}, but they are {tuple(im.shape)} and {tuple(col.shape)}')
    # Windows of pixels near the lower and right edge may begin inside and end beyond the padding of the convolution.
    padding = pad_w, max(kernel_w - 1 - pad_w, 0), pad_h, max(kernel_h - 1 - pad_h, 0)
    windows = F.pad(im[0], padding).unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)  # (C, H, W, kernel_h, kernel_w)
    col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).reshape(wanted))


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int,
                          channels: int) -> None:
    """Put results at their pixels; the others keep their value.

    Args:
        col: (channels, n).
        mask_h_idx: (n,) int64 rows.
        mask_w_idx: (n,) int64 columns.
        im: (1, channels, height, width), written.
        height, width, channels: Of ``im``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if tuple(col.shape) != (channels, len(mask_h_idx)) or im.numel() != channels * height * width:
        raise ValueError(f'masked_col2im_forward: col must be ({channels}, {len(mask_h_idx)}) and im (1, {channels}, '
                         f'{height}, {width}), but they are {tuple(col.shape)} and {tuple(im.shape)}')
    im.view(channels, height, width)[:, mask_h_idx, mask_w_idx] = col
