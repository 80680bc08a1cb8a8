"""Record targets, losses and a forward pass of the official TTFNet head into ``ttfnet.npz``.

Usage: python tests/data/parity/ttfnet_record.py CHECKOUT_OF_ZJULearning/ttfnet

The official files are run from the checkout as they are; only the packages that they import are replaced (mmdetection
1.x does not install on a current stack). Deformable convolutions come from mmcv, whose kernel has the same definition.
"""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch
from mmcv.cnn import ConvModule
from mmcv.ops import ModulatedDeformConv2dPack
from mmengine.model import bias_init_with_prob, kaiming_init, normal_init
from torch import nn

SEED = 1909
ALL = ('mmcv', 'mmcv.cnn', 'mmdet', 'mmdet.ops', 'mmdet.ops.nms', 'mmdet.core', 'mmdet.core.anchor',
       'mmdet.core.anchor.guided_anchor_target', 'mmdet.models', 'mmdet.models.losses', 'mmdet.models.utils',
       'mmdet.models.registry', 'mmdet.models.anchor_heads', 'mmdet.models.anchor_heads.anchor_head')


class Registry:
    """Stands in for mmdetection 1.x's registries."""
    register_module = staticmethod(lambda cls: cls)


class DeformConv(ModulatedDeformConv2dPack):
    """Deformable convolution with the parameter names of mmdetection 1.x."""

    def __init__(self, *args: int, deformable_groups: int = 1, **kwargs: int) -> None:
        super().__init__(*args, deform_groups=deformable_groups, **kwargs)
        self.conv_offset_mask = self.conv_offset
        del self.conv_offset
        self.__dict__['conv_offset'] = self.conv_offset_mask


def load(checkout: Path) -> type:
    """Import the official head with its dependencies replaced."""
    for name in ALL:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []

    def run(path: str, name: str, **given: object) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, checkout / path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        module.__dict__.update(given)
        spec.loader.exec_module(module)
        return module

    def fill(name: str, **given: object) -> None:
        sys.modules[name].__dict__.update(given)

    fill('mmcv.cnn', normal_init=normal_init, kaiming_init=kaiming_init)
    fill('mmdet.models.registry', HEADS=Registry, LOSSES=Registry)
    fill('mmdet.ops', ModulatedDeformConvPack=DeformConv, sigmoid_focal_loss=None)
    nms = (checkout / 'mmdet/ops/nms/nms_wrapper.py').read_text().split('def simple_nms')[1]
    scope = {'nn': nn}
    exec('def simple_nms' + nms, scope)
    fill('mmdet.ops.nms', simple_nms=scope['simple_nms'])
    run('mmdet/models/losses/utils.py', 'mmdet.models.losses.utils')
    areas = (checkout / 'mmdet/core/bbox/geometry.py').read_text().split('def bbox_areas')[1]
    exec('def bbox_areas' + areas, scope)

    def multi_apply(function: object, *args: list, **kwargs: object) -> tuple[list, ...]:
        return tuple(map(list, zip(*(function(*row, **kwargs) for row in zip(*args)))))

    fill('mmdet.core', multi_apply=multi_apply, bbox_areas=scope['bbox_areas'], bbox_overlaps=None,
         force_fp32=lambda **_: lambda function: function)
    fill('mmdet.core.anchor.guided_anchor_target', calc_region=None)
    focal = run('mmdet/models/losses/focal_loss.py', 'mmdet.models.losses.focal_loss')
    iou = run('mmdet/models/losses/iou_loss.py', 'mmdet.models.losses.iou_loss')
    fill('mmdet.models.losses', ct_focal_loss=focal.ct_focal_loss, giou_loss=iou.giou_loss)
    fill('mmdet.models.utils', bias_init_with_prob=bias_init_with_prob, ConvModule=ConvModule,
         build_norm_layer=lambda cfg, channels: ('bn', nn.BatchNorm2d(channels)))
    fill('mmdet.models.anchor_heads.anchor_head', AnchorHead=type('AnchorHead', (nn.Module, ), {}))
    return run('mmdet/models/anchor_heads/ttf_head.py', 'mmdet.models.anchor_heads.ttf_head').TTFHead


def random_boxes(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    """Boxes of many sizes and shapes whose edges may lie a little outside the image."""
    centre = rng.uniform(0, size, (number, 2))
    extent = np.exp(rng.uniform(np.log(1.5), np.log(size), (number, 2)))
    return np.concatenate((centre - extent / 2, centre + extent / 2), 1).astype(np.float32)


def main() -> None:
    """Run the official code on seeded input and save what went in and what came out."""
    checkout = Path(sys.argv[1])
    head_type = load(checkout)
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    classes, size = 3, 96
    boxes = [random_boxes(rng, n, size) for n in (6, 0, 14, 1)]
    labels = [rng.integers(0, classes, len(b)) for b in boxes]
    head = head_type((6, 8, 10, 12), (12, 10, 8), head_conv=8, wh_conv=6, hm_head_conv_num=2, wh_head_conv_num=1,
                     num_classes=classes + 1)
    for param in head.parameters():
        nn.init.normal_(param, std=0.15)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    head.eval()
    feats = [torch.randn(4, c, size // s, size // s) for c, s in zip((6, 8, 10, 12), (4, 8, 16, 32))]
    meta = [{'pad_shape': (size, size, 3)}] * 4
    with torch.no_grad():
        heatmap, wh = head(feats)
        targets = head.target_generator([torch.from_numpy(b) for b in boxes],
                                        [torch.from_numpy(x) + 1 for x in labels], meta)
        losses = head.loss_calc(heatmap.clone(), wh, *targets)
        found = head.get_bboxes(heatmap.clone(), wh, meta, types.SimpleNamespace(max_per_img=20, score_thr=0.5))
    out = {f'feat{i}': f.numpy() for i, f in enumerate(feats)}
    out |= {f'gt_bboxes{i}': b for i, b in enumerate(boxes)} | {f'gt_labels{i}': x for i, x in enumerate(labels)}
    out |= {f'state/bbox_head.{k}': v.numpy() for k, v in head.state_dict().items()}
    out |= {f'det{i}': torch.cat((b, x[:, None]), 1).numpy() for i, (b, x) in enumerate(found)}
    out |= dict(zip(('target_heatmap', 'target_box', 'target_weight'), (t.numpy() for t in targets)))
    out |= {'heatmap': heatmap.numpy(), 'wh': wh.numpy(), 'loss_heatmap': losses[0].numpy(),
            'loss_wh': losses[1].numpy()}
    commit = subprocess.run(['git', '-C', checkout, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    out['provenance'] = np.array(
        f'https://github.com/ZJULearning/ttfnet {commit}; python tests/data/parity/ttfnet_record.py CHECKOUT; '
        f'seed {SEED}; torch {torch.__version__}; deformable convolution of compiled mmcv 2.1.0')
    np.savez_compressed(Path(__file__).with_name('ttfnet.npz'), **out)


if __name__ == '__main__':
    main()
