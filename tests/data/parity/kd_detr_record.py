"""Record values and gradients of KD-DETR's released criterion into ``kd_detr.npz``.

Usage: python tests/data/parity/kd_detr_record.py KD_DETR COMMIT

KD_DETR holds the files of github.com/Myleswork/KD-DETR at COMMIT. ``models/DAB_DETR/kd_loss.py`` and
``util/box_ops.py`` are run as they are; what they import besides is replaced by empty modules and, of
torchvision, by the area of boxes.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

SEED = 2211
LAYERS, IMAGES, POINTS, CLASSES = 3, 2, 7, 6


def load(root: Path) -> type:
    """Import the official file and return its criterion."""
    class Empty(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith('__'):
                raise AttributeError(name)

    def file(name: str, path: Path) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    for name in ('util', 'util.misc', 'kd', 'kd.backbone', 'kd.matcher', 'kd.transformer', 'torchvision',
                 'torchvision.ops', 'torchvision.ops.boxes'):
        sys.modules[name] = Empty(name)
        sys.modules[name].__path__ = []
    sys.modules['torchvision.ops.boxes'].box_area = lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sys.modules['util'].box_ops = file('util.box_ops', root / 'util/box_ops.py')
    return file('kd.kd_loss', root / 'models/DAB_DETR/kd_loss.py').KDCriterion


def points(layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (layers, B, N, C) and boxes (layers, B, N, 4) of a sensible size."""
    scores = 3 * torch.randn(layers, IMAGES, POINTS, CLASSES) - 2
    centre = .3 + .4 * torch.rand(layers, IMAGES, POINTS, 2)
    return scores, torch.cat([centre, .1 + .4 * torch.rand(layers, IMAGES, POINTS, 2)], -1)


def nested(scores: torch.Tensor, boxes: torch.Tensor) -> dict:
    """Outputs as the released detector names them."""
    layers = [dict(pred_logits=score, pred_boxes=box) for score, box in zip(scores, boxes)]
    return dict(layers[-1], aux_outputs=layers[:-1])


def main() -> None:
    root, commit = Path(sys.argv[1]), sys.argv[2]
    criterion = load(root)(None, None, aux_refpoints=True, random_refpoints=POINTS)
    torch.manual_seed(SEED)
    student = {name: points(LAYERS) for name in ('auxrf', 'randomrf')}
    teacher = {name: points(1) for name in student}
    for values in student.values():
        for value in values:
            value.requires_grad_()
    losses = criterion({name: nested(*values) for name, values in student.items()},
                       dict(nested(*teacher['auxrf']), randomrf=nested(*teacher['randomrf'])))
    out = {name: np.array(value) for name, value in criterion.weight_dict.items()}
    for ours, theirs in (('specific', 'auxrf'), ('general', 'randomrf')):
        values = student[theirs]
        out[f'{ours}_scores'], out[f'{ours}_boxes'] = (value.detach().numpy() for value in values)
        out[f'{ours}_teacher_scores'], out[f'{ours}_teacher_boxes'] = (value[0].numpy() for value in teacher[theirs])
        for term in ('cls', 'bbox', 'giou'):
            loss = losses[f'loss_kd_{theirs}_{term}']
            gradients = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
            out[f'{ours}_{term}'] = loss.detach().numpy()
            out[f'{ours}_{term}_gradient'] = gradients[term != 'cls'].numpy()
    out['provenance'] = np.array(f'github.com/Myleswork/KD-DETR {commit}, models/DAB_DETR/kd_loss.py KDCriterion; '
                                 f'kd_detr_record.py, seed {SEED}, torch {torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('kd_detr.npz'), **out)


if __name__ == '__main__':
    main()
