"""Connectors bring a student's tensor to the width and size of the teacher's; a dry run tells both."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.distill.errors import DistillError

KINDS = ('auto', 'conv', 'conv_bn', 'identity')


class Connector(nn.Module):
    """Map a student tensor to the shape of the teacher's.

    Maps (B, C, H, W) go through a 1x1 convolution and, where sizes differ, bilinear interpolation to the teacher's size
    (corners not aligned); rows (N, C) and tokens (B, L, C) go through a linear layer.

    Args:
        student: Shape of the student's tensor in the dry run.
        teacher: Shape of the teacher's.
        kind: ``'conv'``: always a layer; ``'conv_bn'``: with batch norm after it; ``'identity'``: never one, widths
            must agree; ``'auto'``: a layer only where widths differ.
        where: What is connected, for messages.

    Raises:
        DistillError: If the ranks differ, or widths do and ``kind`` is ``'identity'``.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], kind: str = 'auto', where: str = '') -> None:
        super().__init__()
        if kind not in KINDS:
            raise DistillError(f'connector={kind!r} does not exist; there are {", ".join(KINDS)}')
        if len(student) != len(teacher):
            raise DistillError(f'{where}: the student gives {tuple(student)} and the teacher {tuple(teacher)}; choose '
                               'taps of the same kind (maps with maps, rows with rows)')
        axis = 1 if len(student) == 4 else -1
        narrow, wide = student[axis], teacher[axis]
        if kind == 'identity' and narrow != wide:
            raise DistillError(f'{where}: the student has {narrow} channels and the teacher {wide}, but the method '
                               "compares them as they are (connector='identity')")
        self.layer: nn.Module = nn.Identity()
        if kind in ('conv', 'conv_bn') or (kind == 'auto' and narrow != wide):
            self.layer = nn.Conv2d(narrow, wide, 1, bias=kind != 'conv_bn') if axis == 1 else nn.Linear(narrow, wide)
            nn.init.kaiming_normal_(self.layer.weight, mode='fan_in', nonlinearity='linear')
            if self.layer.bias is not None:
                nn.init.zeros_(self.layer.bias)
        if kind == 'conv_bn' and axis == 1:
            self.layer = nn.Sequential(self.layer, nn.BatchNorm2d(wide))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's tensor with the width and size of ``teacher``."""
        out = self.layer(student)
        if out.dim() == 4 and out.shape[-2:] != teacher.shape[-2:]:
            out = F.interpolate(out, size=teacher.shape[-2:], mode='bilinear', align_corners=False)
        return out


def connectors(student: Sequence[Tensor], teacher: Sequence[Tensor], kind: str, where: str, seed: int = 0
               ) -> nn.ModuleList:
    """One connector a pair of tensors, with weights that do not touch the run's random numbers.

    Args:
        student: Tensors of the student's dry run.
        teacher: Tensors of the teacher's.
        kind: See :class:`Connector`.
        where: What is connected, for messages.
        seed: Seed of the weights.

    Raises:
        DistillError: If the numbers of tensors differ.
    """
    if len(student) != len(teacher):
        raise DistillError(f'{where}: the student gives {len(student)} tensors {_shapes(student)} and the teacher '
                           f'{len(teacher)} {_shapes(teacher)}; choose levels with brackets, e.g. '
                           f'neck[:{min(len(student), len(teacher))}]')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(Connector(s.shape, t.shape, kind, f'{where}, tensor {i}')
                             for i, (s, t) in enumerate(zip(student, teacher)))


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ' '.join(str(tuple(tensor.shape)) for tensor in tensors)
