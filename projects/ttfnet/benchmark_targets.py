"""Time TTFGaussianTarget against drawing one object after another.

Usage: python -m mmpapers.projects.ttfnet.benchmark_targets [--batch 16 --objects 50 --size 512 --classes 80]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmpapers.projects.ttfnet.targets import TTFGaussianTarget


def one_by_one(boxes: Sequence[Tensor], labels: Sequence[Tensor], shape: tuple[int, int, int], stride: int = 4,
               alpha: float = 0.54) -> tuple[Tensor, Tensor, Tensor]:
    """The same targets by a loop over objects that touches each object's own pixels only.

    Args:
        boxes: One (N_i, 4) tensor an image, centres inside the image.
        labels: One (N_i,) tensor an image.
        shape: Classes, height and width of the map.
        stride: Input pixels per map pixel.
        alpha: Share of the half box under the Gaussian.

    Returns:
        Heat map (B, C, H, W), boxes (B, 4, H, W) and weights (B, 1, H, W).
    """
    classes, height, width = shape
    heatmap = torch.zeros(len(boxes), classes, height, width)
    target = torch.full((len(boxes), 4, height, width), -1.)
    weight = torch.zeros(len(boxes), 1, height, width)
    for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels)):
        area = (image_boxes[:, 2:] - image_boxes[:, :2]).prod(1).clamp(min=1)
        for k in area.argsort(descending=True, stable=True).tolist():
            x1, y1, x2, y2 = image_boxes[k].tolist()
            inside_w = min(max(x2 / stride, 0), width - 1) - min(max(x1 / stride, 0), width - 1)
            inside_h = min(max(y2 / stride, 0), height - 1) - min(max(y1 / stride, 0), height - 1)
            cx, cy = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
            rx, ry = int(inside_w / 2 * alpha), int(inside_h / 2 * alpha)
            left, right = max(cx - rx, 0), min(cx + rx + 1, width)
            top, bottom = max(cy - ry, 0), min(cy + ry + 1, height)
            x = (torch.arange(left, right) - cx) / ((2 * rx + 1) / 6)
            y = (torch.arange(top, bottom) - cy) / ((2 * ry + 1) / 6)
            gauss = torch.exp(-(x * x + (y * y)[:, None]) / 2)
            window = heatmap[i, int(image_labels[k]), top:bottom, left:right]
            torch.maximum(window, gauss, out=window)
            target[i, :, top:bottom, left:right] = image_boxes[k][:, None, None]
            weight[i, 0, top:bottom, left:right] = area[k].log() * gauss / gauss.sum()
    return heatmap, target, weight


def random_batch(batch: int, objects: int, size: int, classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes of log-uniform sizes from 8 pixels to the image's, as in COCO; centres inside the image."""
    boxes = []
    for _ in range(batch):
        centre = torch.rand(objects, 2) * size
        extent = 8 * torch.exp(torch.rand(objects, 2) * torch.tensor(size / 8).log())
        boxes.append(torch.cat((centre - extent / 2, centre + extent / 2), 1).clamp(0, size))
    return boxes, [torch.randint(0, classes, (objects, )) for _ in range(batch)]


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median time of ``repeats`` calls after one to warm up, in milliseconds."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main(argv: Sequence[str] | None = None) -> int:
    """Print both times and whether the results agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, default=512, help='input height and width in pixels')
    parser.add_argument('--objects', type=int, default=50, help='objects an image')
    parser.add_argument('--batch', type=int, default=16, help='images')
    parser.add_argument('--classes', type=int, default=80, help='heat-map channels')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch')
    parser.add_argument('--repeats', type=int, default=9, help='timed calls; the median is printed')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    boxes, labels = random_batch(args.batch, args.objects, args.size, args.classes)
    shape = (args.classes, args.size // 4, args.size // 4)
    target = TTFGaussianTarget()
    ours, loop = target(boxes, labels, shape), one_by_one(boxes, labels, shape)
    difference = max(float((a - b).abs().max()) for a, b in zip((ours.heatmap, *ours.dense()), loop))
    fast = median_ms(lambda: target(boxes, labels, shape), args.repeats)
    slow = median_ms(lambda: one_by_one(boxes, labels, shape), args.repeats)
    print(f'{args.batch} images of {args.size}x{args.size}, {args.objects} objects each, {args.threads} thread(s)')
    print(f'one by one  {slow:8.1f} ms\nvectorised  {fast:8.1f} ms   {slow / fast:.1f} x, '
          f'largest difference {difference:.1e}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
