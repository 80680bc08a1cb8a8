"""PSA mask (Zhao et al., PSANet, ECCV 2018): attention over relative positions, spread over absolute ones.

Pixel (h, w) gives each pixel (y, x) the attention of channel (y - h + half_h, x - w + half_w) of its mask, 0 outside
the mask. One row h at a time: the rows of the mask that are used are then a slice, and only the columns are skewed.
"""

from collections.abc import Iterator

from torch import Tensor

_COLLECT = 0


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, h_feature: int, w_feature: int,
                    h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int) -> None:
    """Spread the masks.

    Args:
        input: (N, h_mask * w_mask, H, W).
        output: (N, H * W, H, W) of zeros, written. Collecting, its channels are the pixels (y, x) that are looked at;
            distributing, the pixels (h, w) that look.
        psa_type: 0 collect, 1 distribute.
        num_: N.
        h_feature, w_feature: H and W.
        h_mask, w_mask, half_h_mask, half_w_mask: Size of the mask and of its half.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('psamask_forward', input, output, num_, h_feature, w_feature, h_mask, w_mask)
    mask = input.detach().view(num_, h_mask, w_mask, h_feature, w_feature)
    for h, rows, skewed, target in _rows(output, psa_type, h_mask, half_h_mask):
        first = (w_feature - 1) - half_w_mask
        low, high = max(0, first), min(skewed.shape[-1], first + w_mask)
        skewed[..., low:high] = mask[:, rows, low - first:high - first, h].transpose(2, 3)
        target.copy_(_unskewed(skewed, w_feature))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int, h_feature: int,
                     w_feature: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int) -> None:
    """Gradient of :func:`psamask_forward`.

    Args:
        grad_output: (N, H * W, H, W).
        grad_input: (N, h_mask * w_mask, H, W) of zeros, written.
        psa_type: As in the forward; so are the others.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check('psamask_backward', grad_input, grad_output, num_, h_feature, w_feature, h_mask, w_mask)
    mask = grad_input.view(num_, h_mask, w_mask, h_feature, w_feature)
    for h, rows, skewed, source in _rows(grad_output, psa_type, h_mask, half_h_mask):
        first = (w_feature - 1) - half_w_mask
        low, high = max(0, first), min(skewed.shape[-1], first + w_mask)
        _unskewed(skewed, w_feature).copy_(source)
        mask[:, rows, low - first:high - first, h] = skewed[..., low:high].transpose(2, 3)


def _rows(spread: Tensor, psa_type: int, h_mask: int, half_h_mask: int) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """For each row h: h, the rows of the mask used, zeros (N, rows, W, 2 W - 1), and (N, rows, W, W) of ``spread``.

    The last two dimensions are (w, x - w + W - 1) of the zeros and (w, x) of the view.
    """
    num, _, height, width = spread.shape
    spread = spread.detach().view(num, height, width, height, width)
    for h in range(height):
        low, high = max(0, half_h_mask - h), min(h_mask, height + half_h_mask - h)
        if low >= high:
            continue
        y = slice(low + h - half_h_mask, high + h - half_h_mask)
        view = spread[:, y, :, h].transpose(2, 3) if psa_type == _COLLECT else spread[:, h, :, y].transpose(1, 2)
        yield h, slice(low, high), spread.new_zeros(num, high - low, width, 2 * width - 1), view


def _unskewed(skewed: Tensor, width: int) -> Tensor:
    """View (N, rows, W, 2 W - 1), indexed by (w, x - w + W - 1), as (N, rows, W, W), indexed by (w, x)."""
    num, rows = skewed.shape[:2]
    by_image, by_row, by_w, _ = skewed.stride()
    return skewed.as_strided((num, rows, width, width), (by_image, by_row, by_w - 1, 1), width - 1)


def _check(op: str, mask: Tensor, spread: Tensor, num: int, height: int, width: int, h_mask: int, w_mask: int) -> None:
    """Raise a ValueError that says which shape does not fit and what it must be."""
    wanted = (num, h_mask * w_mask, height, width), (num, height * width, height, width)
    if tuple(mask.shape) != wanted[0] or tuple(spread.shape) != wanted[1]:
        raise ValueError(f'{op}: for {num} maps of {height}x{width} and a mask of {h_mask}x{w_mask}, the mask must be '
                         f'{wanted[0]} and its spread {wanted[1]}, but they are {tuple(mask.shape)} and '
                         f'{tuple(spread.shape)}; mask_size of the head must be the size that its attention predicts')
