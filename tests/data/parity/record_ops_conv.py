"""Record values and gradients of mmcv's compiled CPU kernels, which tests/test_core/test_ops_*.py compare with.

Run with a compiled mmcv 2.1.0 (`make compiled`): ``python tests/data/parity/record_ops_conv.py ops_conv.npz``.
The file holds, for each case, the inputs (``case/in/name``), the output (``case/out``), the gradient that is sent back
(``case/grad``) and the gradients of the inputs (``case/grad/name``), in float32; and the provenance as JSON.
"""

import json
import sys

import mmcv
import numpy as np
import torch
from mmcv.ops.deform_conv import deform_conv2d
from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmcv.ops.psa_mask import psa_mask

SEED = 2026
# name -> (batch, in channels, out channels, (H, W), kernel, stride, padding, dilation, groups, deform groups, scale of
# the offsets)
CONVS = {
    'plain': (2, 4, 6, (5, 6), (3, 3), 1, 1, 1, 1, 1, 1.0),
    'strided': (2, 4, 4, (7, 6), (3, 2), (2, 1), (1, 2), 1, 2, 2, 1.5),
    'dilated': (1, 6, 3, (6, 5), (3, 3), 1, 2, 2, 3, 1, 2.0),
    'depthwise': (4, 4, 4, (3, 4), (3, 3), 1, 1, 1, 4, 4, 1.0),
    'far': (1, 2, 2, (5, 5), (3, 3), 1, 1, 1, 1, 2, 8.0),
    'pixel': (1, 3, 2, (1, 1), (1, 1), 1, 0, 1, 1, 1, 0.7),
    'larger_map': (2, 2, 2, (2, 3), (3, 3), 1, 1, 1, 1, 1, 1.0),
}
# name -> (batch, (H, W), mask size)
PSA = {'small_mask': (2, (5, 6), (3, 5)), 'large_mask': (1, (4, 3), (7, 5)), 'even_mask': (1, (5, 4), (4, 2))}


def convolution_inputs(case: str, modulated: bool) -> tuple[dict[str, torch.Tensor], tuple]:
    """Inputs by name, and the other arguments of a case."""
    batch, inside, outside, size, kernel, stride, padding, dilation, groups, deform_groups, scale = CONVS[case]
    taps = deform_groups * kernel[0] * kernel[1]
    x = torch.randn(batch, inside, *size)
    weight = torch.randn(outside, inside // groups, *kernel)
    out_size = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    if case == 'larger_map':  # mmdet's DyHead: offsets and masks of a finer level
        out_size = torch.Size((2 * out_size[0], 2 * out_size[1]))
    inputs = {'x': x, 'offset': torch.randn(batch, 2 * taps, *out_size) * scale}
    if modulated:
        inputs['mask'] = torch.rand(batch, taps, *out_size).round(decimals=1)
    inputs['weight'] = weight
    if modulated and case != 'strided':
        inputs['bias'] = torch.randn(outside)
    return inputs, (stride, padding, dilation, groups, deform_groups)


def run(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs and output of a case."""
    op, _, case = name.partition('/')
    if op in ('deform_conv', 'modulated_deform_conv'):
        inputs, settings = convolution_inputs(case, op == 'modulated_deform_conv')
        leaves = {key: value.requires_grad_() for key, value in inputs.items()}
        if op == 'deform_conv':
            return leaves, deform_conv2d(*leaves.values(), *settings, False, 2)
        arguments = [leaves.get(key) for key in ('x', 'offset', 'mask', 'weight', 'bias')]
        return leaves, modulated_deform_conv2d(*arguments, *settings)
    if op in ('psamask_collect', 'psamask_distribute'):
        batch, size, mask = PSA[case]
        x = torch.randn(batch, mask[0] * mask[1], *size, requires_grad=True)
        return {'x': x}, psa_mask(x, int(op == 'psamask_distribute'), mask)
    shapes = torch.tensor([[6, 8], [3, 4], [1, 1]])
    leaves = {'value': torch.randn(2, 61, 2, 4), 'locations': torch.rand(2, 5, 2, 3, 2, 2) * 1.6 - 0.3,
              'weights': torch.rand(2, 5, 2, 3, 2)}
    leaves = {key: value.requires_grad_() for key, value in leaves.items()}
    return leaves, multi_scale_deformable_attn_pytorch(leaves['value'], shapes, leaves['locations'], leaves['weights'])


def main(path: str) -> None:
    """Record all cases."""
    names = [f'{op}/{case}' for op in ('deform_conv', 'modulated_deform_conv') for case in CONVS]
    names.remove('deform_conv/larger_map')  # refused there
    names += ['ms_deform_attn/levels']
    names += [f'psamask_{kind}/{case}' for kind in ('collect', 'distribute') for case in PSA]
    arrays = {}
    for name in names:
        torch.manual_seed(SEED)
        leaves, out = run(name)
        grad = torch.randn_like(out)
        grads = torch.autograd.grad(out, list(leaves.values()), grad)
        arrays |= {f'{name}/in/{key}': value.detach().numpy() for key, value in leaves.items()}
        arrays |= {f'{name}/out': out.detach().numpy(), f'{name}/grad': grad.numpy()}
        arrays |= {f'{name}/grad/{key}': value.numpy() for key, value in zip(leaves, grads)}
    provenance = {'repository': 'https://github.com/open-mmlab/mmcv', 'version': mmcv.__version__, 'device': 'cpu',
                  'torch': torch.__version__, 'seed': SEED, 'command': 'python record_ops_conv.py ops_conv.npz',
                  'kernels': 'compiled, mmcv._ext; ms_deform_attn: multi_scale_deformable_attn_pytorch'}
    np.savez_compressed(path, provenance=json.dumps(provenance), **arrays)


if __name__ == '__main__':
    main(sys.argv[1])
