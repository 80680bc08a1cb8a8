"""Time of Hungarian matching in a training step: of all layers, groups and images at once, and one by one as in mmdet.

Predictions and labels are made. Both ways use the same match costs (those of DAB-DETR: focal loss, L1, GIoU) and find
the same pairs, which is checked. Times are CPU time of this process on the CPU, and wall-clock time on CUDA.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmpapers import compat

from . import console, runtime
from .benchmark_distill import interleave

COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0)
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 2 if a number is below 1.
    """
    parser = argparse.ArgumentParser('benchmark_matching', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--layers', type=int, default=6, help='decoder layers (default 6)')
    parser.add_argument('--images', type=int, default=2, help='images of a step (default 2)')
    parser.add_argument('--groups', type=int, nargs='+', default=[1, 11], help='groups of queries (default 1 11)')
    parser.add_argument('--queries', type=int, default=300, help='queries of a group (default 300)')
    parser.add_argument('--objects', type=int, default=10, help='objects of an image (default 10)')
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--repeat', type=int, default=20, help='timed rounds')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads on the CPU (default 1)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    for name in ('layers', 'images', 'queries', 'objects', 'classes', 'repeat', 'threads'):
        if getattr(args, name) < 1:
            raise runtime.UserError(f'--{name} {getattr(args, name)}: give 1 or more')
    if min(args.groups) < 1:
        raise runtime.UserError(f'--groups {min(args.groups)}: give 1 or more')
    compat.setup()
    torch.set_num_threads(args.threads)
    print(f'{args.layers} layers, {args.images} images of {args.objects} objects, {args.queries} queries a group, '
          f'{args.device}, {args.threads} thread(s), medians of {args.repeat} rounds\n')
    print('| groups | one by one, ms | calls | at once, ms | ratio |\n| ---: | ---: | ---: | ---: | ---: |')
    for groups in args.groups:
        with console.quiet_stack():
            calls = ways(args, groups)
            apart, together = (call() for call in calls.values())
            if not torch.equal(apart, together):
                raise RuntimeError('the two ways of matching found different pairs')
            seconds = interleave(calls, args.repeat, args.device)
        first, second = (statistics.median(values) * 1e3 for values in seconds.values())
        print(f'| {groups} | {first:.1f} | {args.layers * args.images * groups} | {second:.1f} | '
              f'{second / first:.2f} |')
    return 0


def ways(args: argparse.Namespace, groups: int) -> dict[str, Callable[[], Tensor]]:
    """Both ways of matching the same made predictions; each returns (layers, images x groups, queries) positions."""
    from mmdet.models.task_modules.assigners import HungarianAssigner
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

    from mmpapers.layers.set_matching import match

    generator = torch.Generator().manual_seed(0)

    def boxes(*shape: int) -> Tensor:
        centres = torch.rand(*shape, 2, generator=generator) * 0.6 + 0.2
        return torch.cat([centres, torch.rand(*shape, 2, generator=generator) * 0.3 + 0.05], -1).to(args.device)

    size = 640
    assigner = HungarianAssigner(COSTS)
    rows = args.images * groups
    scores = torch.randn(args.layers, rows, args.queries, args.classes, generator=generator).to(args.device)
    predictions = boxes(args.layers, rows, args.queries)
    gts, metas = [], []
    for _ in range(args.images):
        labels = torch.randint(args.classes, (args.objects, ), generator=generator).to(args.device)
        gt = InstanceData(labels=labels, bboxes=bbox_cxcywh_to_xyxy(boxes(args.objects)) * size)
        gts += [gt] * groups
        metas += [dict(img_shape=(size, size))] * groups

    def one_by_one() -> Tensor:
        found = []
        for layer in range(args.layers):
            for row in range(rows):
                made = InstanceData(scores=scores[layer, row],
                                    bboxes=bbox_cxcywh_to_xyxy(predictions[layer, row]) * size)
                found.append(assigner.assign(made, gts[row], metas[row]).gt_inds)
        return torch.stack(found).unflatten(0, (args.layers, rows))

    return {'one by one': one_by_one, 'at once': lambda: match(assigner, scores, predictions, gts, metas)}


if __name__ == '__main__':
    raise SystemExit(main())
