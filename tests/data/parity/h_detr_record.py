"""Record losses of the official H-Deformable-DETR, and its whole transformer on tiny maps, into ``h_detr.npz``.

Usage: python tests/data/parity/h_detr_record.py CHECKOUT_OF_HDETR/H-Deformable-DETR [COMMIT]

Criterion, matcher, ``train_hybrid``, detector and transformer are the checkout's own. Replaced are what they import
without need here (wandb, data sets, backbones) and the CUDA kernel of deformable attention, by the checkout's own
implementation in PyTorch. Weights are not stored: :func:`weights` makes them from the names that mmdet gives them.
"""

import re
import subprocess
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SEED, CLASSES = 2207, 7
COEFFICIENTS = dict(loss_ce=2., loss_bbox=5., loss_giou=2.)
COUNTS = dict(plenty=(3, 5, 0), overflow=(2, 9, 4))  # labels of each image; 20 queries and K = 4
TINY = dict(own=8, further=20, k=4, layers=2, channels=(12, 20), sizes=((64, 64), (64, 48)), counts=(4, 6))
RENAMED = [
    (r'^transformer\.', ''), (r'^(enc_output)_norm', 'memory_trans_norm'), (r'^enc_output\b', 'memory_trans_fc'),
    (r'^pos_trans\.', 'pos_trans_fc.'), (r'^(decoder\.)?class_embed', 'bbox_head.cls_branches'),
    (r'^(?:decoder\.)?bbox_embed\.(\d)\.layers\.(\d)', lambda m: f'bbox_head.reg_branches.{m[1]}.{2 * int(m[2])}'),
    (r'^input_proj\.(\d)\.0', r'neck.convs.\1.conv'), (r'^input_proj\.(\d)\.1', r'neck.convs.\1.gn'),
    (r'linear1', 'ffn.layers.0.0'), (r'linear2', 'ffn.layers.1'),
    (r'^(encoder.*)norm(\d)', lambda m: f'{m[1]}norms.{int(m[2]) - 1}'),
    (r'^(decoder.*)norm(\d)', lambda m: f'{m[1]}norms.{(1, 0, 2)[int(m[2]) - 1]}'),  # norm2 follows self-attention
    (r'^(decoder.*self_attn)', r'\1.attn')]


def weights(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a parameter, by its name in mmdet."""
    drawn = np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    wide = 'query_embedding' in name or name == 'level_embed' or name.endswith('sampling_offsets.bias')
    unit = name.endswith('weight') and ('norm' in name or '.gn.' in name)
    return torch.from_numpy(drawn * (1. if wide else .05)) + float(unit)


def stub(**modules: dict) -> None:
    """Modules that are imported and not needed."""
    for name, content in modules.items():
        module = sys.modules[name.replace('__', '.')] = types.ModuleType(name.replace('__', '.'))
        module.__dict__.update(content)


def load(checkout: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """The official detector's module and ``engine``."""
    sys.path.insert(0, str(checkout))
    stub(wandb={}, MultiScaleDeformableAttention={}, datasets={}, datasets__coco_eval=dict(CocoEvaluator=None),
         datasets__panoptic_eval=dict(PanopticEvaluator=None), datasets__data_prefetcher=dict(data_prefetcher=None),
         models__backbone=dict(build_backbone=None), torchvision={}, torchvision__ops={},
         torchvision__ops__boxes=dict(box_area=lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(1)))
    import models.deformable_detr as detector
    import models.ops.modules.ms_deform_attn as attention
    from models.ops.functions.ms_deform_attn_func import ms_deform_attn_core_pytorch
    attention.MSDeformAttnFunction = types.SimpleNamespace(
        apply=lambda value, shapes, start, places, weight, step: ms_deform_attn_core_pytorch(
            value, shapes, places, weight))
    import engine
    return detector, engine


def labels(counts: tuple[int, ...], rng: np.random.Generator) -> list[dict[str, Tensor]]:
    """Boxes (cx, cy, w, h) in [0, 1] and classes of each image."""
    return [dict(boxes=torch.from_numpy(np.concatenate([rng.uniform(.3, .7, (n, 2)), rng.uniform(.05, .5, (n, 2))],
                                                       1).astype(np.float32)),
                 labels=torch.from_numpy(rng.integers(0, CLASSES, n))) for n in counts]


def weighted(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses that are trained, times their coefficients."""
    return {name: value * COEFFICIENTS[kind] for name, value in losses.items()
            if (kind := next((k for k in COEFFICIENTS if name.startswith(k)), None))}


def record_criterion(criterion: nn.Module, engine: types.ModuleType, out: dict[str, np.ndarray]) -> None:
    """Losses on random predictions of 3 layers, 20 queries in each set."""
    for case, counts in COUNTS.items():
        rng = np.random.default_rng(SEED)
        targets = labels(counts, rng)
        made = {}
        for part in ('', '_one2many'):
            scores = torch.from_numpy(rng.normal(-1, 1, (3, len(counts), 20, CLASSES)).astype(np.float32))
            boxes = torch.from_numpy(rng.uniform(.1, .9, (3, len(counts), 20, 4)).astype(np.float32))
            out |= {f'{case}/scores{part}': scores.numpy(), f'{case}/boxes{part}': boxes.numpy()}
            made |= {f'pred_logits{part}': scores[-1], f'pred_boxes{part}': boxes[-1],
                     f'aux_outputs{part}': [dict(pred_logits=s, pred_boxes=b)
                                            for s, b in zip(scores[:-1], boxes[:-1])]}
        for i, target in enumerate(targets):
            out |= {f'{case}/gt_{key}{i}': value.numpy() for key, value in target.items()}
        losses = weighted(engine.train_hybrid(made, targets, 4, criterion, .5))
        out |= {f'{case}/loss/{name}': value.numpy() for name, value in losses.items()}


class Maps(nn.Module):
    """In the place of a backbone: gives the maps that it was made with."""

    def __init__(self, maps: list[Tensor], embed: nn.Module) -> None:
        super().__init__()
        self.maps, self.embed = maps, embed
        self.strides, self.num_channels = [8, 16], [m.shape[1] for m in maps]

    def forward(self, samples: object) -> tuple[list, list]:
        masks = [nn.functional.interpolate(samples.mask[None].float(), size=m.shape[-2:])[0].bool() for m in self.maps]
        from util.misc import NestedTensor
        found = [NestedTensor(*pair) for pair in zip(self.maps, masks)]
        return found, [self.embed(each) for each in found]


def record_detector(detector: types.ModuleType, criterion: nn.Module, engine: types.ModuleType,
                    out: dict[str, np.ndarray]) -> None:
    """The detector with both tricks and the branch: predictions, losses and norms of gradients."""
    from models.deformable_transformer import DeformableTransformer
    from models.position_encoding import PositionEmbeddingSine
    from util.misc import NestedTensor
    rng = np.random.default_rng(SEED + 1)
    shapes = [(2, channels, size, size) for channels, size in zip(TINY['channels'], (8, 4))]
    maps = [torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
    transformer = DeformableTransformer(
        d_model=256, nhead=8, num_encoder_layers=1, num_decoder_layers=TINY['layers'], dim_feedforward=64, dropout=0.,
        return_intermediate_dec=True, num_feature_levels=2, dec_n_points=2, enc_n_points=2, two_stage=True,
        two_stage_num_proposals=TINY['own'] + TINY['further'], mixed_selection=True, look_forward_twice=True)
    model = detector.DeformableDETR(
        Maps(maps, PositionEmbeddingSine(128, normalize=True)), transformer, CLASSES, 2, with_box_refine=True,
        two_stage=True, num_queries_one2one=TINY['own'], num_queries_one2many=TINY['further'], mixed_selection=True)
    names = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == 'query_embed.weight':
                parameter.copy_(torch.cat([weights('query_embedding.weight', (TINY['own'], 256)),
                                           weights('query_embedding_one2many.weight', (TINY['further'], 256))]))
                continue
            ours = name
            for pattern, new in RENAMED:
                ours = re.sub(pattern, new, ours)
            names[ours] = parameter
            parameter.copy_(0 * parameter if ours.endswith('conv.bias') else weights(ours, tuple(parameter.shape)))
    mask = torch.ones(2, 64, 64, dtype=torch.bool)
    for i, (height, width) in enumerate(TINY['sizes']):
        mask[i, :height, :width] = False
    targets = labels(TINY['counts'], rng)
    found = model(NestedTensor(torch.zeros(2, 3, 64, 64), mask))
    losses = weighted(engine.train_hybrid(found, targets, TINY['k'], criterion, 1.))
    sum(losses.values()).backward()
    names = {name: p.grad for name, p in names.items() if not name.endswith('conv.bias')}
    names['query_embedding.weight'], names['query_embedding_one2many.weight'] = model.query_embed.weight.grad.split(
        [TINY['own'], TINY['further']])
    for i, target in enumerate(targets):
        out |= {f'detector/gt_{key}{i}': value.numpy() for key, value in target.items()}
    out |= {f'detector/map{i}': m.numpy() for i, m in enumerate(maps)}
    out |= {f'detector/{key}{part}': found[f'pred_{name}{part}'].detach().numpy()
            for key, name in (('scores', 'logits'), ('boxes', 'boxes')) for part in ('', '_one2many')}
    out |= {f'detector/loss/{name}': value.detach().numpy() for name, value in losses.items()}
    out |= {f'detector/gradient/{name}': value.norm().numpy() for name, value in names.items()}
    model.eval()  # what engine.evaluate does
    model.num_queries = transformer.two_stage_num_proposals = TINY['own']
    with torch.no_grad():
        found = model(NestedTensor(torch.zeros(2, 3, 64, 64), mask))
    out |= {'detector/eval_scores': found['pred_logits'].numpy(), 'detector/eval_boxes': found['pred_boxes'].numpy()}


def main() -> None:
    """Record all."""
    checkout = Path(sys.argv[1])
    detector, engine = load(checkout)
    from models.matcher import HungarianMatcher
    criterion = detector.SetCriterion(CLASSES, HungarianMatcher(2, 5, 2), COEFFICIENTS, ['labels', 'boxes'])
    out: dict[str, np.ndarray] = {}
    record_criterion(criterion, engine, out)
    record_detector(detector, criterion, engine, out)
    commit = sys.argv[2] if len(sys.argv) > 2 else subprocess.run(
        ['git', '-C', checkout, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    out['provenance'] = np.array(f'https://github.com/HDETR/H-Deformable-DETR {commit}; python '
                                 f'tests/data/parity/h_detr_record.py CHECKOUT; seed {SEED}; torch {torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('h_detr.npz'), **out)


if __name__ == '__main__':
    main()
