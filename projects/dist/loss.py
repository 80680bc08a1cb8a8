"""DIST's loss: the teacher's relations between classes and between samples, kept up to scale and shift."""

import warnings

import torch.distributed.nn.functional as collective
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmpapers.registry import MODELS

_TINY = 1e-30  # below any product that counts against eps; keeps the root's gradient finite


@MODELS.register_module()
class DISTLoss(nn.Module):
    """One minus Pearson correlation of probabilities, along classes and along samples.

    With ``Y = softmax(Z / tau)`` of N samples and C classes, ``rho`` the Pearson correlation, s the student and t the
    teacher::

        L_inter = 1 - mean over n of rho(Y_s[n, :], Y_t[n, :])
        L_intra = 1 - mean over c of rho(Y_s[:, c], Y_t[:, c])
        loss = tau^2 (beta L_inter + gamma L_intra)

    Each part lies in [0, 2]. It does not change when probabilities (not logits) are scaled and shifted. ``L_intra`` is
    taken over the samples of one device, so it depends on how many there are; with ``sync`` over those of all devices.

    Source: Huang et al., NeurIPS 2022, arXiv 2205.10536; lib/models/losses/dist_kd.py of
    github.com/hunto/image_classification_sota at 6f7a70a.

    Args:
        beta: Weight of ``L_inter``.
        gamma: Weight of ``L_intra``.
        tau: Temperature; 1 everywhere but on CIFAR, where the authors use 4.
        tau_squared: Whether ``tau^2`` multiplies the loss.
        activation: ``'softmax'`` or ``'sigmoid'``.
        num_anchors: Anchors A of a dense head, whose maps have A * C channels, anchor by anchor. 1 takes all channels
            for classes, as the released code does; A makes each anchor a sample of C classes.
        sync: Correlate over the samples of all processes.
        eps: Added to the product of norms, outside of the root.
        loss_weight: Factor on the whole.
    """

    def __init__(self, beta: float = 1., gamma: float = 1., tau: float = 1., tau_squared: bool = True,
                 activation: str = 'softmax', num_anchors: int = 1, sync: bool = False, eps: float = 1e-8,
                 loss_weight: float = 1.) -> None:
        super().__init__()
        if activation not in ('softmax', 'sigmoid'):
            raise ValueError(f"DISTLoss: activation={activation!r}; choose 'softmax' or 'sigmoid'")
        if tau <= 0 or num_anchors < 1:
            raise ValueError(f'DISTLoss: tau={tau} must be positive and num_anchors={num_anchors} at least 1')
        self.beta, self.gamma, self.tau = beta, gamma, tau
        self.activation, self.num_anchors, self.sync, self.eps = activation, num_anchors, sync, eps
        self.factor = loss_weight * (tau**2 if tau_squared else 1.)

    def forward(self, student: Tensor, teacher: Tensor, valid_mask: Tensor | None = None) -> Tensor:
        """Compute the loss in float32 (float64 for float64 inputs).

        Args:
            student: Logits (N, C), or (B, C, H, W), where every pixel is a sample.
            teacher: The same of the teacher; no gradient goes there.
            valid_mask: Boolean (N,) or (B, H, W): samples that count; all by default.

        Returns:
            Scalar; 0 if no sample is valid.

        Raises:
            ValueError: If shapes do not fit.
        """
        if student.shape != teacher.shape or student.dim() not in (2, 4) or student.shape[1] % self.num_anchors:
            raise ValueError('DISTLoss takes two tensors (N, C) or (B, C, H, W) of one shape, C a multiple of '
                             f'num_anchors={self.num_anchors}; got {tuple(student.shape)} and {tuple(teacher.shape)}')
        ours, theirs = self.rows(student), self.rows(teacher.detach())
        if valid_mask is not None:
            mask = valid_mask.flatten().repeat_interleave(self.num_anchors)
            if len(mask) != len(ours):
                raise ValueError(f'DISTLoss: valid_mask {tuple(valid_mask.shape)} does not fit {tuple(student.shape)}')
            ours, theirs = ours[mask], theirs[mask]
        spread = self.sync and get_world_size() > 1
        if not len(ours) and not spread:
            return student.sum() * 0.
        if len(ours) == 1 and not spread:
            warnings.warn('DISTLoss got one sample, for which L_intra is 1 whatever the student says: use a larger '
                          'batch or sync=True')
        ours, theirs = self._probabilities(ours), self._probabilities(theirs)
        inter = (1 - pearson(ours, theirs, 1, self.eps)).sum() / max(len(ours), 1)
        intra = (1 - pearson(ours, theirs, 0, self.eps, spread)).mean()
        return self.factor * (self.beta * inter + self.gamma * intra)

    def rows(self, logits: Tensor) -> Tensor:
        """Turn logits (N, A * C) or (B, A * C, H, W) into samples (N * A, C) or (B * H * W * A, C)."""
        if logits.dim() == 4:
            logits = logits.permute(0, 2, 3, 1)
        return logits.reshape(-1, logits.shape[-1] // self.num_anchors)

    def _probabilities(self, rows: Tensor) -> Tensor:
        rows = (rows if rows.element_size() >= 4 else rows.float()) / self.tau
        return rows.sigmoid() if self.activation == 'sigmoid' else rows.softmax(1)


def pearson(first: Tensor, second: Tensor, dim: int, eps: float = 1e-8, sync: bool = False) -> Tensor:
    """Pearson correlation of two (N, C) tensors.

    Args:
        first: (N, C).
        second: (N, C).
        dim: 1 correlates rows, 0 columns.
        eps: Added to the product of norms.
        sync: Take columns over all processes, which may have different N. As every process then computes the loss of
            all, the mean of gradients that DDP takes is the gradient of one process with all samples.

    Returns:
        (N,) or (C,); 0 where a row or column is constant.
    """
    def total(tensor: Tensor, keepdim: bool = False) -> Tensor:
        tensor = tensor.sum(dim, keepdim)
        return collective.all_reduce(tensor) if sync else tensor

    count = total(first.new_ones(first.shape), True).clamp(min=1.) if sync else first.shape[dim]
    first, second = (tensor - total(tensor, True) / count for tensor in (first, second))
    norms = (total(first * first) * total(second * second)).clamp(min=_TINY).sqrt()
    return total(first * second) / (norms + eps)
