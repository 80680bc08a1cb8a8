"""Record what 3DETR's matcher, overlaps and criterion give into ``sparsepoint.npz``.

Usage: python tests/data/parity/sparsepoint_record.py CHECKOUT

CHECKOUT is github.com/facebookresearch/3detr. Its files are run as they are, on the CPU, with numpy, scipy and torch.
Its yaw turns clockwise. Its ``generalized_box3d_iou`` takes an overlap of turned boxes for none when two of their
corners say so, so turned ones are compared by its ``box3d_iou`` (convex hulls) and ``enclosing_box3d_vol``.
"""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch

SEED = 2103
SAMPLES, QUERIES, OBJECTS, CLASSES, BINS = 3, 12, 5, 6, 12


def draw(generator: torch.Generator, number: int, turned: bool) -> torch.Tensor:
    """Boxes (B, number, 7): centre, sizes, our yaw."""
    centre = 1.5 * torch.rand(SAMPLES, number, 3, generator=generator)
    size = 0.5 + 1.5 * torch.rand(SAMPLES, number, 3, generator=generator)
    yaw = 6.28 * torch.rand(SAMPLES, number, 1, generator=generator) * turned
    return torch.cat([centre, size, yaw], -1)


def corners(boxes: torch.Tensor, official: types.ModuleType) -> torch.Tensor:
    """Their corners, in their frame."""
    return official.get_3d_box_batch_tensor(boxes[..., 3:6], -boxes[..., 6],
                                            official.flip_axis_to_camera_tensor(boxes[..., :3]))


def turned_gious(ours: torch.Tensor, theirs: torch.Tensor, counts: torch.Tensor, **_) -> torch.Tensor:
    """What ``generalized_box3d_iou`` is meant to give, of official parts."""
    from utils import box_util
    iou = torch.zeros(*ours.shape[:2], theirs.shape[1])
    for b, i, j in np.ndindex(*iou.shape):
        if j < counts[b]:
            iou[b, i, j] = float(box_util.box3d_iou(ours[b, i].numpy(), theirs[b, j].numpy())[0])
    volumes = box_util.box3d_vol_tensor(ours)[:, :, None] + box_util.box3d_vol_tensor(theirs)[:, None]
    gious = iou - (1 - volumes / (1 + iou) / box_util.enclosing_box3d_vol(ours, theirs))
    return gious * (torch.arange(theirs.shape[1]) < counts[:, None, None])


def main() -> None:
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    import criterion
    from utils import box_util
    generator = torch.Generator().manual_seed(SEED)
    counts = torch.tensor([OBJECTS, 3, 0])
    labels = torch.randint(0, CLASSES, (SAMPLES, OBJECTS), generator=generator)
    logits = 2 * torch.randn(SAMPLES, QUERIES, CLASSES + 1, generator=generator)
    scale = 3 + 4 * torch.rand(SAMPLES, 3, generator=generator)
    dir_logits = torch.randn(SAMPLES, QUERIES, BINS, generator=generator)
    dir_residuals = torch.randn(SAMPLES, QUERIES, BINS, generator=generator)
    present = (torch.arange(OBJECTS) < counts[:, None]).float()
    out = {'counts': counts, 'labels': labels, 'logits': logits, 'scale': scale, 'dir_logits': dir_logits,
           'dir_residuals': dir_residuals}
    for kind, turned in (('straight', False), ('turned', True)):
        queries, objects = draw(generator, QUERIES, turned), draw(generator, OBJECTS, turned)
        ours, theirs = corners(queries, box_util), corners(objects, box_util)
        if turned:
            criterion.generalized_box3d_iou = turned_gious
        place = (objects[..., 6] / (2 * np.pi) * BINS + 0.5) % BINS
        bins = place.long()
        matcher = criterion.Matcher(cost_class=1, cost_objectness=2, cost_giou=3, cost_center=5)
        weights = dict(loss_giou_weight=1, loss_sem_cls_weight=1, loss_no_object_weight=0.25, loss_angle_cls_weight=1,
                       loss_angle_reg_weight=1, loss_center_weight=1, loss_size_weight=1)
        data = types.SimpleNamespace(num_semcls=CLASSES, num_angle_bin=BINS)
        probability = logits.softmax(-1)
        outputs = {
            'sem_cls_logits': logits, 'sem_cls_prob': probability[..., :-1],
            'objectness_prob': 1 - probability[..., -1], 'center_normalized': queries[..., :3] / scale[:, None],
            'size_normalized': queries[..., 3:6] / scale[:, None],
            'angle_logits': dir_logits, 'angle_residual_normalized': dir_residuals, 'box_corners': ours}
        targets = {
            'gt_box_sem_cls_label': labels, 'gt_box_present': present, 'gt_box_corners': theirs,
            'gt_box_angles': objects[..., 6], 'gt_box_centers_normalized': objects[..., :3] / scale[:, None],
            'gt_box_sizes_normalized': objects[..., 3:6] / scale[:, None], 'gt_angle_class_label': bins,
            'gt_angle_residual_label': (place - bins - 0.5) * (2 * np.pi / BINS)}
        _, losses = criterion.SetCriterion(matcher, data, weights)({'outputs': outputs}, targets)
        matched = matcher(outputs, targets | {'nactual_gt': counts})
        out |= {f'{kind}_queries': queries, f'{kind}_objects': objects, f'{kind}_gious': outputs['gious'],
                f'{kind}_matched': torch.where(matched['proposal_matched_mask'] > 0, matched['per_prop_gt_inds'], -1)}
        out |= {f'{kind}_{name}': torch.as_tensor(value) for name, value in losses.items()}
    commit = subprocess.check_output(['git', '-C', str(checkout), 'rev-parse', 'HEAD'], text=True).strip()
    values = {name: value.detach().numpy() for name, value in out.items()}
    values['provenance'] = np.array(f'github.com/facebookresearch/3detr {commit}; sparsepoint_record.py, seed {SEED}, '
                                    f'torch {torch.__version__}')
    np.savez_compressed(Path(__file__).with_name('sparsepoint.npz'), **values)


if __name__ == '__main__':
    main()
