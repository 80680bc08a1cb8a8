"""Record what detrex's matcher and criterion of Group DETR give into ``group_detr.npz``.

Usage: python tests/data/parity/group_detr_record.py REPOSITORY

REPOSITORY is a clone (a bare one will do) of github.com/IDEA-Research/detrex. Its matcher, criterion and box operations
are run as they are, on the CPU; none of them needs detectron2. Its helpers for distributed training are replaced by
those of one process, torchvision's area of boxes by ours. Its attention, which mixes the groups, is not used.
"""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch

SEED = 220713085
LAYERS, IMAGES, GROUPS, QUERIES, CLASSES, OBJECTS = 3, 3, 4, 7, 5, 9
CASES = {'usual': (4, 0, 6), 'crowded': (9, 2, 3), 'empty': (0, 0, 0)}  # labels of each image
WEIGHTS = dict(loss_class=2., loss_bbox=5., loss_giou=2.)
FILES = {
    'detrex.layers.box_ops': 'detrex/layers/box_ops.py',
    'group_matcher': 'projects/group_detr/modeling/group_matcher.py',
    'group_criterion': 'projects/group_detr/modeling/group_criterion.py',
}


def load(repository: str) -> tuple[types.ModuleType, ...]:
    """Run the official files in modules of their names."""
    for name in ('detrex', 'detrex.layers', 'detrex.utils', 'torchvision', 'torchvision.ops', 'torchvision.ops.boxes'):
        sys.modules[name] = types.ModuleType(name)
    sys.modules['torchvision.ops.boxes'].box_area = lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sys.modules['detrex.utils'].get_world_size = lambda: 1
    sys.modules['detrex.utils'].is_dist_avail_and_initialized = lambda: False
    modules = []
    for name, path in FILES.items():
        text = subprocess.check_output(['git', '-C', repository, 'show', f'HEAD:{path}'], text=True)
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(text, path, 'exec'), module.__dict__)
        vars(sys.modules['detrex.layers']).update({k: v for k, v in vars(module).items() if 'box' in k})
        modules.append(module)
    return tuple(modules)


def draw_boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Boxes (..., 4) as (cx, cy, w, h) inside the image."""
    centre = .3 + .4 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre, .1 + .4 * torch.rand(*shape, 2, generator=generator)], -1)


def main() -> None:
    """Run matcher and criterion, write the file."""
    repository = sys.argv[1]
    _, matching, criteria = load(repository)
    generator = torch.Generator().manual_seed(SEED)
    logits = 2 * torch.randn(LAYERS, IMAGES, GROUPS * QUERIES, CLASSES, generator=generator)
    boxes = draw_boxes(generator, LAYERS, IMAGES, GROUPS * QUERIES)
    labels = torch.randint(0, CLASSES, (IMAGES, OBJECTS), generator=generator)
    objects = draw_boxes(generator, IMAGES, OBJECTS)
    out = dict(logits=logits, boxes=boxes, labels=labels, objects=objects, groups=torch.tensor(GROUPS))
    matcher = matching.GroupHungarianMatcher(cost_class=2., cost_bbox=5., cost_giou=2.)
    criterion = criteria.GroupSetCriterion(CLASSES, matcher, WEIGHTS, group_nums=GROUPS)
    for case, counts in CASES.items():
        targets = [dict(labels=labels[i, :count], boxes=objects[i, :count]) for i, count in enumerate(counts)]
        matched = torch.full(logits.shape[:3], -1)
        inputs = [value.clone().requires_grad_() for value in (logits, boxes)]
        outputs = [dict(pred_logits=scores, pred_boxes=places) for scores, places in zip(*inputs)]
        for layer, output in enumerate(outputs):
            for image, (queries, found) in enumerate(matcher(output, targets, group_nums=GROUPS)):
                matched[layer, image, queries] = found
        losses = criterion(dict(outputs[-1], aux_outputs=outputs[:-1]), targets)
        losses = {name: value * WEIGHTS['_'.join(name.split('_')[:2])] for name, value in losses.items()}
        gradients = torch.autograd.grad(sum(losses.values()), inputs)
        out |= {f'{case}_counts': torch.tensor(counts), f'{case}_matched': matched,
                f'{case}_gradient_logits': gradients[0], f'{case}_gradient_boxes': gradients[1]}
        out |= {f'{case}_{name}': value for name, value in losses.items()}
    commit = subprocess.check_output(['git', '-C', repository, 'rev-parse', 'HEAD'], text=True).strip()
    values = {name: value.detach().numpy() for name, value in out.items()}
    values['provenance'] = np.array(f'github.com/IDEA-Research/detrex {commit}, {", ".join(FILES.values())}; python '
                                    f'tests/data/parity/group_detr_record.py CLONE, seed {SEED}, torch '
                                    f'{torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('group_detr.npz'), **values)


if __name__ == '__main__':
    main()
