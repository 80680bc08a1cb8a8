"""Fake batches of every kind that the models of mmdet and mmseg take: shapes, types and labels of the real ones.

Images are noise with rectangles; the rectangles are the objects, with boxes, masks, semantic and panoptic labels.
"""

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

Batch = dict[str, Any]
Size = tuple[int, int]


def training_batch(cfg: Config, size: Size, batch: int = 2) -> Batch:
    """Return one collated batch as a data loader gives it to the data preprocessor of ``cfg.model``.

    Args:
        cfg: Stock config.
        size: Height and width of the images.
        batch: Images (or videos, or identities) in the batch.
    """
    return _batch(cfg, size, batch, training=True)


def test_batch(cfg: Config, size: Size) -> Batch:
    """Return a batch of one, without annotations that only training uses."""
    return _batch(cfg, size, 1, training=False)


def values(node: Any, key: str) -> list:
    """All values of ``key`` in nested dicts and lists."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    here = [node[key]] if isinstance(node, dict) and key in node else []
    return here + [value for child in children for value in values(child, key)]


def _batch(cfg: Config, size: Size, batch: int, training: bool) -> Batch:
    """One batch of the kind that the model takes."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    kind = preprocessor.get('type', '')
    generator = np.random.default_rng(0)
    classes = min([n for n in values(cfg.model, 'num_classes') if isinstance(n, int) and n > 0], default=1)
    if cfg.default_scope == 'mmseg':
        samples = [_segmentation(generator, size, classes, values(cfg.model, 'type')) for _ in range(batch)]
    elif kind == 'ReIDDataPreprocessor':
        samples = [_identity(generator, index, training) for index in range(batch)]
    elif kind == 'TrackDataPreprocessor' and not (training and preprocessor.get('use_det_processor')):
        samples = [_video(generator, size, classes, index, frames=2 if training else 1) for index in range(batch)]
    else:
        things = max([n for n in values(cfg.model, 'num_things_classes') if isinstance(n, int)], default=80)
        samples = [_detection(generator, size, classes, things, index) for index in range(batch)]
        for _, sample in samples:
            if not any(values(cfg.model, 'rpn_head')):
                _add_proposals(generator, sample)
            if not any(values(cfg._cfg_dict, 'with_mask')):  # RTMDet would take masks for those of RTMDet-Ins
                del sample.gt_instances.masks, sample.ignored_instances.masks
    inputs, data_samples = zip(*samples)
    if kind == 'MultiBranchDataPreprocessor' and training:
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        more = [_detection(generator, size, classes, 80, batch + i) for i in range(batch)]
        images, targets = zip(*more)
        return {'inputs': dict(zip(branches, (list(inputs), list(images), list(images)))),
                'data_samples': dict(zip(branches, (list(data_samples), list(targets),
                                                    [target.clone() for target in targets])))}
    return {'inputs': list(inputs), 'data_samples': list(data_samples)}


def _scene(generator: np.random.Generator, size: Size, objects: int = 3) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Image (3, H, W) uint8, boxes (n, 4) float32 and masks (n, H, W) uint8."""
    height, width = size
    image = generator.integers(0, 255, (3, height, width), np.uint8)
    extent = np.array([width, height]) * generator.uniform(0.2, 0.6, (objects, 2))
    low = generator.uniform(0, 1, (objects, 2)) * (np.array([width, height]) - extent - 1)
    boxes = np.concatenate([low, low + extent], 1).astype(np.float32)
    masks = np.zeros((objects, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
        image[:, y1:y2, x1:x2] //= 3
    return torch.from_numpy(image), boxes, masks


def _meta(size: Size, index: int) -> dict[str, Any]:
    """Meta information that pipelines add."""
    return {'img_id': index, 'img_path': f'{index}.jpg', 'img_shape': size, 'ori_shape': size, 'pad_shape': size,
            'scale_factor': (1.0, 1.0), 'flip': False, 'flip_direction': None,
            'homography_matrix': np.eye(3, dtype=np.float32),
            'border': np.array([0, size[0], 0, size[1]]), 'batch_input_shape': size, 'text': 'car . person .',
            'custom_entities': False, 'reduce_zero_label': False}


def _detection(generator: np.random.Generator, size: Size, classes: int, things: int, index: int) -> tuple:
    """Image and DetDataSample with boxes, masks and a semantic map."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    image, boxes, masks = _scene(generator, size)
    labels = np.arange(len(boxes)) % min(classes, 2)
    semantic = np.full(size, things, np.uint8)
    semantic[size[0] // 2:] = things + 1
    for mask, label in zip(masks, labels):
        semantic[mask > 0] = label
    sample = DetDataSample(metainfo=_meta(size, index))
    boxes = torch.from_numpy(boxes)
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.from_numpy(labels), masks=BitmapMasks(list(masks), *size),
        instances_ids=torch.arange(len(boxes)))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0].clone(), labels=torch.zeros(0, dtype=torch.long),
                                            masks=BitmapMasks([], *size))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic)[None])
    return image, sample


def _add_proposals(generator: np.random.Generator, sample: Any) -> None:
    """Add proposals around the objects, for models without a region proposal network of their own."""
    boxes = sample.gt_instances.bboxes
    moved = (boxes + torch.from_numpy(generator.uniform(-8, 8, (20, 1, 4)).astype(np.float32))).flatten(0, 1)
    moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 4)
    sample.proposals = InstanceData(bboxes=moved, scores=torch.linspace(1, 0.1, len(moved)))


def _video(generator: np.random.Generator, size: Size, classes: int, index: int, frames: int) -> tuple:
    """Frames (T, 3, H, W) and TrackDataSample; the objects keep their identities."""
    from mmdet.structures import TrackDataSample
    state = generator.bit_generator.state
    images, samples = [], []
    for frame in range(frames):
        generator.bit_generator.state = state
        image, sample = _detection(generator, size, classes, 80, index)
        sample.set_metainfo({'frame_id': frame, 'ori_video_length': frames, 'video_id': index, 'video_length': frames})
        images.append(image)
        samples.append(sample)
    track = TrackDataSample(metainfo={'key_frames_inds': [0], 'ref_frames_inds': list(range(1, frames))})
    track.video_data_samples = samples
    return torch.stack(images), track


def _identity(generator: np.random.Generator, index: int, training: bool) -> tuple:
    """Crops of one person, (4, 3, 256, 128) in training, and ReIDDataSample."""
    from mmdet.structures import ReIDDataSample
    crops = [_scene(generator, (256, 128))[0] for _ in range(4 if training else 1)]
    sample = ReIDDataSample(metainfo={'img_shape': (256, 128), 'ori_shape': (256, 128)})
    sample.set_gt_label([index] * len(crops) if training else index)
    return torch.stack(crops) if training else crops[0], sample


def _segmentation(generator: np.random.Generator, size: Size, classes: int, types: list[str]) -> tuple:
    """Image and SegDataSample with a label map, edges and depth."""
    from mmseg.structures import SegDataSample
    image, _, masks = _scene(generator, size)
    labels = np.zeros(size, np.int64)
    for index, mask in enumerate(masks):
        labels[mask > 0] = (index + 1) % max(classes, 2)
    labels[:4] = 255
    edges = np.zeros(size, np.int64)
    edges[:, 1:] = labels[:, 1:] != labels[:, :-1]
    sample = SegDataSample(metainfo=_meta(size, 0))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
    sample.gt_edge_map = PixelData(data=torch.from_numpy(edges)[None])
    sample.gt_depth_map = PixelData(data=torch.rand(1, *size) * 9 + 1)
    inputs = torch.cat([image, image]) if 'DualInputSegDataPreProcessor' in types else image
    return inputs, sample
