"""Training-Time-Friendly Network for Real-Time Object Detection, AAAI 2020, https://arxiv.org/abs/1909.00700

Official code: https://github.com/ZJULearning/ttfnet (Apache-2.0); nothing is copied from it.
Differences: the upsampling path is a neck (``TTFNeck``); boxes are clipped to the image instead of the padded image;
the "+1 pixel" of mmdetection 1.x is a switch, and without it boxes start at 32 pixels; class-specific sizes and
rectangular samples, which no published config uses, are left out.
"""

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import get_local_maximum, get_topk_from_heatmap
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptInstanceList, OptMultiConfig
from mmengine.model import bias_init_with_prob, normal_init
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmpapers.registry import MODELS, TASK_UTILS

TARGET = {'type': 'mmpapers.TTFGaussianTarget'}
LOSS_HEATMAP = {'type': 'mmdet.GaussianFocalLoss', 'alpha': 2.0, 'gamma': 4.0, 'loss_weight': 1.0}
LOSS_BBOX = {'type': 'mmdet.GIoULoss', 'loss_weight': 5.0}


@MODELS.register_module()
class TTFHead(BaseDenseHead):
    """Predict a class heat map of object centres and, at every pixel, the distances to the four sides.

    Many pixels around a centre learn the box, weighted by a Gaussian and the log of the area, so training needs far
    fewer steps than with one sample an object; a 3x3 max-pool and a top-k replace NMS.

    Args:
        num_classes: Foreground classes.
        in_channels: Channels of the neck's map. Official: 64.
        stride: Input pixels per map pixel. Official: 4.
        heatmap_channels: Width of the heat-map branch. Official configs: 128.
        heatmap_convs: 3x3 convolutions before its last 1x1 one. Official: 2.
        wh_channels: Width of the size branch. Official: 64.
        wh_convs: 3x3 convolutions of the size branch. Official configs: 1 (ResNet-18) or 2.
        wh_scale: Factor from the size branch's output to pixels. Official: 16.
        target: Config of the target generator; ``stride`` and ``legacy_plus_one`` are filled in.
        loss_heatmap: Loss of the heat map, called with probabilities. Official: penalty-reduced focal loss, weight 1.
        loss_bbox: Loss of the boxes x1 y1 x2 y2 in input pixels. Official: GIoU, weight 5.
        legacy_plus_one: Count boxes as mmdetection 1.x did (a box x1..x2 is ``x2 - x1 + 1`` wide) in the targets, the
            GIoU and the clipping. Set it to reproduce official weights and numbers.
        train_cfg: Unused; mmdet passes it.
        test_cfg: ``max_per_img`` (100), ``score_thr`` (0.01) and ``local_maximum_kernel`` (3); official values.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int = 64,
                 stride: int = 4,
                 heatmap_channels: int = 128,
                 heatmap_convs: int = 2,
                 wh_channels: int = 64,
                 wh_convs: int = 2,
                 wh_scale: float = 16.0,
                 target: ConfigType = TARGET,
                 loss_heatmap: ConfigType = LOSS_HEATMAP,
                 loss_bbox: ConfigType = LOSS_BBOX,
                 legacy_plus_one: bool = False,
                 train_cfg: OptConfigType = None,
                 test_cfg: OptConfigType = None,
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.num_classes = num_classes
        self.stride = stride
        self.wh_scale = wh_scale
        self.legacy_plus_one = legacy_plus_one
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg or {}
        self.heatmap = _branch(in_channels, heatmap_channels, heatmap_convs, num_classes)
        self.wh = _branch(in_channels, wh_channels, wh_convs, 4)
        self.target = TASK_UTILS.build({'stride': stride, 'legacy_plus_one': legacy_plus_one, **target})
        self.loss_heatmap = MODELS.build(loss_heatmap)
        self.loss_bbox = MODELS.build(loss_bbox)

    def init_weights(self) -> None:
        """Draw N(0, 0.01) for the heat map, N(0, 0.001) for sizes; the last bias gives a probability of 0.01.

        Boxes start with sides of 32 pixels: without the "+1 pixel" an empty box is a stationary point of the GIoU.
        With it they start empty, as in the official code.
        """
        super().init_weights()
        for branch, std in ((self.heatmap, 0.01), (self.wh, 0.001)):
            for module in branch.modules():
                if isinstance(module, nn.Conv2d):
                    normal_init(module, std=std)
        nn.init.constant_(self.heatmap[-1].bias, bias_init_with_prob(0.01))
        nn.init.constant_(self.wh[-1].bias, 0.0 if self.legacy_plus_one else 1.0)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Predict from the neck's only map.

        Args:
            feats: One map (B, in_channels, H, W).

        Returns:
            Heat-map logits (B, num_classes, H, W) and distances left, top, right, bottom in input pixels (B, 4, H, W).
        """
        if len(feats) != 1:
            raise ValueError(f'TTFHead reads one map, got {len(feats)}; set model.neck to mmpapers.TTFNeck')
        return self.heatmap(feats[0]), F.relu(self.wh(feats[0])) * self.wh_scale

    def loss_by_feat(self,
                     heatmap: Tensor,
                     wh: Tensor,
                     batch_gt_instances: InstanceList,
                     batch_img_metas: list[dict],
                     batch_gt_instances_ignore: OptInstanceList = None) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            heatmap: Logits (B, num_classes, H, W).
            wh: Distances in input pixels (B, 4, H, W).
            batch_gt_instances: ``bboxes`` (N, 4) in input pixels and ``labels`` (N,) an image.
            batch_img_metas: Unused.
            batch_gt_instances_ignore: Unused, as in the official code.

        Returns:
            ``loss_heatmap`` and ``loss_bbox``.
        """
        targets = self.target([i.bboxes for i in batch_gt_instances], [i.labels for i in batch_gt_instances],
                              tuple(heatmap.shape[1:]))
        probability = heatmap.float().sigmoid().clamp(1e-4, 1 - 1e-4)
        num_centres = targets.heatmap.eq(1).sum().clamp(min=1)
        loss_heatmap = self.loss_heatmap(probability, targets.heatmap, avg_factor=num_centres)

        distances = wh.float().permute(0, 2, 3, 1).reshape(-1, 4)[targets.pixels]
        boxes = self._to_boxes(targets.pixels, distances, *wh.shape[2:])
        # GIoU with the +1 convention is plain GIoU of boxes that end a pixel later.
        plus = boxes.new_tensor([0, 0, 1, 1]) * float(self.legacy_plus_one)
        loss_bbox = self.loss_bbox(boxes + plus, targets.boxes + plus, targets.weights,
                                   avg_factor=targets.weights.sum() + 1e-4)
        return {'loss_heatmap': loss_heatmap, 'loss_bbox': loss_bbox}

    def decode(self, heatmap: Tensor, wh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn predictions into the best boxes: max-pool, top-k, no NMS. Traceable.

        Args:
            heatmap: Logits (B, num_classes, H, W).
            wh: Distances in input pixels (B, 4, H, W).

        Returns:
            Boxes (B, K, 4) x1 y1 x2 y2 in input pixels, unclipped; scores (B, K), descending; labels (B, K).
        """
        peaks = get_local_maximum(heatmap.float().sigmoid().contiguous(), self.test_cfg.get('local_maximum_kernel', 3))
        k = min(self.test_cfg.get('max_per_img', 100), peaks[0].numel())
        scores, pixels, labels, *_ = get_topk_from_heatmap(peaks, k)
        distances = wh.float().flatten(2).gather(2, pixels[:, None].expand(-1, 4, -1)).transpose(1, 2)
        return self._to_boxes(pixels, distances, *wh.shape[2:]), scores, labels

    def predict_by_feat(self,
                        heatmap: Tensor,
                        wh: Tensor,
                        batch_img_metas: list[dict],
                        rescale: bool = False) -> InstanceList:
        """Decode a batch.

        Args:
            heatmap: Logits (B, num_classes, H, W).
            wh: Distances in input pixels (B, 4, H, W).
            batch_img_metas: ``img_shape`` (H, W) and, to rescale, ``scale_factor`` (w, h) an image.
            rescale: Return boxes in pixels of the original image.

        Returns:
            ``bboxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,) an image.
        """
        results = []
        for boxes, scores, labels, meta in zip(*self.decode(heatmap, wh), batch_img_metas):
            keep = scores > self.test_cfg.get('score_thr', 0.01)
            height, width = meta['img_shape'][:2]
            limit = boxes.new_tensor([width, height, width, height]) - float(self.legacy_plus_one)
            boxes = boxes[keep].clamp(min=0).minimum(limit)
            if rescale:
                boxes = boxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
            results.append(InstanceData(bboxes=boxes, scores=scores[keep], labels=labels[keep]))
        return results

    def _to_boxes(self, pixels: Tensor, distances: Tensor, height: int, width: int) -> Tensor:
        """Boxes around pixels (..., ) of the flattened (B, H, W) or (H, W) from distances (..., 4)."""
        centre = torch.stack((pixels % width, pixels // width % height), dim=-1) * self.stride
        return torch.cat((centre - distances[..., :2], centre + distances[..., 2:]), dim=-1)


def _branch(in_channels: int, channels: int, num_convs: int, out_channels: int) -> nn.Sequential:
    """3x3 convolutions with ReLU, then a 1x1 one."""
    widths = [in_channels] + [channels] * num_convs
    convs = [ConvModule(a, b, 3, padding=1) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(*convs, nn.Conv2d(widths[-1], out_channels, 1))
