"""Fake batches for the models of mmdet3d: a scanned street or a room, seen by a camera where the model has images.

What a batch holds is read from the config: the keys that its training pipeline packs, the columns of its points, its
classes, its box type and its range.
"""

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from . import stock_clouds
from .stock_data import Batch, Size, values

INDOOR = ('ScanNetDataset', 'SUNRGBDDataset', 'ScanNetSegDataset', 'S3DISSegDataset')
# Length, width and height in metres of objects of the street by a part of their name; others are as large as cars.
SIZES = {'car': (4.2, 1.8, 1.6), 'truck': (7, 2.5, 3), 'bus': (11, 2.9, 3.5), 'trailer': (12, 2.9, 3.8),
         'construction': (6.4, 2.8, 3.2), 'ped': (0.8, 0.7, 1.75), 'cycl': (1.8, 0.6, 1.7), 'bike': (1.8, 0.6, 1.7),
         'barrier': (0.5, 2.5, 1), 'cone': (0.4, 0.4, 1.1)}
OBJECTS = 8
# x forward, y left, z up to x right, y down, z forward.
TO_CAMERA = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float32)


def training_batch(cfg: Config, size: Size, batch: int = 2) -> Batch:
    """Return one collated batch as a data loader gives it to the data preprocessor of ``cfg.model``.

    Args:
        cfg: Stock config of mmdet3d.
        size: Height and width of images.
        batch: Samples.
    """
    return _batch(cfg, size, batch, training=True)


def test_batch(cfg: Config, size: Size) -> Batch:
    """Return a batch of one, with the columns of the test pipeline."""
    return _batch(cfg, size, 1, training=False)


def _batch(cfg: Config, size: Size, batch: int, training: bool) -> Batch:
    rng = np.random.default_rng(0)
    keys = {key for pipeline in values(cfg.get('train_pipeline'), 'keys') for key in pipeline}
    samples = [_sample(cfg, rng, size, keys, training) for _ in range(batch)]
    inputs = {key: [sample[0][key] for sample in samples] for key in ('points', 'img') if key in keys}
    return {'inputs': inputs, 'data_samples': [sample[1] for sample in samples]}


def _sample(cfg: Config, rng: np.random.Generator, size: Size, keys: set[str], training: bool) -> tuple[dict, Any]:
    """Points and images by name, and Det3DDataSample."""
    from mmdet3d.structures import Det3DDataSample, PointData
    indoor = cfg.get('dataset_type') in INDOOR
    names = _class_names(cfg)
    labels = np.arange(OBJECTS) % len(names)
    boxes = _furniture(rng) if indoor else _traffic(rng, [names[label] for label in labels], _range(cfg))
    views = 5 if cfg.get('dataset_type') == 'WaymoDataset' else 1
    kind = _box_kind(cfg)
    sample = Det3DDataSample(metainfo=_meta(size, views, kind))
    found = InstanceData(bboxes_3d=_boxes(cfg, boxes, kind), labels_3d=torch.from_numpy(labels))
    sample.gt_instances_3d, inputs = found, {}
    if 'points' in keys:
        inputs['points'], owner = _points(cfg, rng, boxes, indoor, training)
        masks = {'pts_semantic_mask': np.where(owner < 0, len(names), labels[owner]), 'pts_instance_mask': owner + 1}
        if 'gt_bboxes_3d' not in keys:  # segmentation; points of no object get one class or are ignored
            masks['pts_semantic_mask'][owner < 0] = len(names) - 1
            for ignored in values(cfg.model, 'ignore_index')[:1]:
                masks['pts_semantic_mask'][::50] = ignored
        sample.gt_pts_seg = PointData(**{key: torch.from_numpy(mask) for key, mask in masks.items() if key in keys})
    if 'img' in keys:
        images = [torch.from_numpy(rng.integers(0, 255, (3, *size), np.uint8)) for _ in range(views)]
        inputs['img'] = torch.stack(images) if views > 1 else images[0]
        flat, centers, depths = _project(boxes, size)
        sample.gt_instances = InstanceData(bboxes=flat, labels=torch.from_numpy(labels))
        if 'depths' in keys:
            found.centers_2d, found.depths = centers, depths
            found.attr_labels = torch.zeros(OBJECTS, dtype=torch.long)
    sample.eval_ann_info = {}
    return inputs, sample


def _class_names(cfg: Config) -> list[str]:
    """Classes of the config, or numbers where it leaves them to the data set."""
    counts = [n for n in values(cfg.model, 'num_classes') if isinstance(n, int)]
    return list(cfg.get('class_names') or cfg.get('metainfo', {}).get('classes') or map(str, range(min(counts))))


def _range(cfg: Config) -> list[float]:
    """x, y, x, y that is looked at."""
    found = cfg.get('point_cloud_range') or ([0, -40, 0, 70, 40, 0] if cfg.get('dataset_type') == 'KittiDataset' else
                                             [-50, -50, 0, 50, 50, 0])
    return [found[i] for i in (0, 1, 3, 4)]


def _box_kind(cfg: Config) -> str:
    """Coordinates of the boxes: lidar, depth or camera."""
    found = values(cfg.get('train_dataloader'), 'box_type_3d')
    return found[0].lower() if found else 'depth' if cfg.get('dataset_type') in INDOOR else 'lidar'


def _traffic(rng: np.random.Generator, names: list[str], reach: list[float]) -> np.ndarray:
    """Boxes in front of the sensor that do not overlap, (n, 7), z at the bottom."""
    sizes = [next((s for part, s in SIZES.items() if part in name.lower()), SIZES['car']) for name in names]
    place = np.linspace(10, min(reach[2], 45) - 5, len(names)), rng.permutation(np.linspace(-8, 8, len(names)))
    yaw = rng.uniform(-0.3, 0.3, len(names)) + rng.choice([0, np.pi / 2], len(names))
    return np.column_stack([*place, np.full(len(names), -1.73), sizes, yaw])


def _furniture(rng: np.random.Generator) -> np.ndarray:
    """Boxes on the floor of a room of 6 x 5 m, (n, 7)."""
    place = np.stack(np.meshgrid(np.linspace(-2.2, 2.2, OBJECTS // 2), [-1.5, 1.5]), -1).reshape(-1, 2)
    place += rng.uniform(-0.2, 0.2, place.shape)
    return np.column_stack([place, np.zeros(OBJECTS), rng.uniform(0.4, 1, (OBJECTS, 3)), rng.uniform(-1, 1, OBJECTS)])


def _points(cfg: Config, rng: np.random.Generator, boxes: np.ndarray, indoor: bool,
            training: bool) -> tuple[torch.Tensor, np.ndarray]:
    """Points with the columns that the pipeline gives them, and the box of each point, -1 for none."""
    pipeline = cfg.get('train_pipeline')
    use = values(pipeline, 'use_dim')[0]
    for step in pipeline:
        if step.type == 'LoadPointsFromMultiSweeps':
            use = step.get('use_dim', [0, 1, 2, 4])
    columns = use if isinstance(use, int) else len(use)
    count = next(iter(values(pipeline, 'num_points')), None)
    if indoor:
        points, owner = stock_clouds.room(rng, boxes, count)
        points[:, 3:] /= 255
        extra = [points[:, :columns]]
        if any(values(pipeline, 'shift_height')):
            extra.append(points[:, 2:3])
        if training and any(values(pipeline, 'use_normalized_coord')):
            extra.append(points[:, :3] / np.array([6, 5, 2.5]) + np.array([0.5, 0.5, 0]))
        return torch.from_numpy(np.hstack(extra).astype(np.float32)), owner
    around = _range(cfg)[0] < 0
    points = stock_clouds.street(rng, boxes, _range(cfg), beams=32 if around else 48, rays=900 if around else 500)
    if count:
        points = points[rng.choice(len(points), count, replace=count > len(points))]
    turn = points[:, None, :2] - boxes[:, :2]
    along = turn[..., 0] * np.cos(boxes[:, 6]) + turn[..., 1] * np.sin(boxes[:, 6])
    across = turn[..., 1] * np.cos(boxes[:, 6]) - turn[..., 0] * np.sin(boxes[:, 6])
    inside = (np.abs(along) < boxes[:, 3] / 2 + 0.1) & (np.abs(across) < boxes[:, 4] / 2 + 0.1) & (
        points[:, 2:3] > -1.6)
    return torch.from_numpy(points[:, :columns]), np.where(inside.any(1), inside.argmax(1), -1)


def _boxes(cfg: Config, boxes: np.ndarray, kind: str) -> Any:
    """Boxes in the coordinates of the model."""
    from mmdet3d.structures import CameraInstance3DBoxes, DepthInstance3DBoxes, LiDARInstance3DBoxes
    boxes = torch.from_numpy(boxes).float()
    nuscenes = cfg.get('dataset_type') == 'NuScenesDataset'
    if nuscenes:
        boxes = torch.cat([boxes, torch.randn(len(boxes), 2)], 1)  # velocity
    if kind == 'depth':
        if cfg.dataset_type == 'ScanNetDataset':
            return DepthInstance3DBoxes(boxes[:, :6], box_dim=6, with_yaw=False, origin=(0.5, 0.5, 0))
        return DepthInstance3DBoxes(boxes)
    if kind == 'camera':
        x, y, z, length, width, height, yaw = boxes[:, :7].T
        camera = torch.stack([-y, -z, x, length, height, width, -yaw - np.pi / 2], 1)
        return CameraInstance3DBoxes(torch.cat([camera, boxes[:, 7:]], 1), box_dim=boxes.shape[1])
    return LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1])


def _intrinsics(size: Size) -> np.ndarray:
    """Camera matrix, (4, 4)."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[0, 0] = matrix[1, 1] = 0.6 * size[1]
    matrix[:2, 2] = size[1] / 2, size[0] / 2
    return matrix


def _project(boxes: np.ndarray, size: Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rectangles (n, 4) around boxes in the image, their centres (n, 2) and depths (n,)."""
    half = boxes[:, None, 3:6] * np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), -1).reshape(-1, 3)
    centre = boxes[:, :3] + boxes[:, 3:6] * (0, 0, 0.5)
    cos, sin = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    corners = np.stack([half[..., 0] * cos - half[..., 1] * sin, half[..., 0] * sin + half[..., 1] * cos, half[..., 2]],
                       -1) + centre[:, None]
    matrix = (_intrinsics(size) @ TO_CAMERA)[:3, :3]

    def pixels(points: np.ndarray) -> np.ndarray:
        image = points @ matrix.T
        return image[..., :2] / image[..., 2:].clip(0.1)

    limit = np.array([size[1] - 1, size[0] - 1])
    seen = pixels(corners).clip(0, limit)
    flat = np.hstack([seen.min(1), np.maximum(seen.max(1), seen.min(1) + 2)])
    return (torch.from_numpy(flat).float(), torch.from_numpy(pixels(centre).clip(0, limit)).float(),
            torch.from_numpy(centre[:, 0]).float())


def _meta(size: Size, views: int, kind: str) -> dict[str, Any]:
    """Meta information that pipelines add."""
    from mmdet3d.structures import Box3DMode, get_box_type
    camera = _intrinsics(size)
    lidar = camera @ TO_CAMERA
    shape = [(*size, 3)] * views if views > 1 else size
    many = (lambda matrix: [matrix] * views) if views > 1 else (lambda matrix: matrix)
    return {'box_type_3d': get_box_type(kind.capitalize() if kind != 'lidar' else 'LiDAR')[0],
            'box_mode_3d': {'lidar': Box3DMode.LIDAR, 'depth': Box3DMode.DEPTH, 'camera': Box3DMode.CAM}[kind],
            'cam2img': many(camera), 'ori_cam2img': many(camera), 'lidar2img': many(lidar),
            'lidar2cam': many(TO_CAMERA), 'depth2img': lidar @ np.array(
                [[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32),
            'img_shape': shape, 'ori_shape': shape, 'pad_shape': shape, 'input_shape': size,
            'scale_factor': np.ones(2, np.float32), 'flip': False, 'pcd_horizontal_flip': False,
            'pcd_vertical_flip': False, 'pcd_trans': np.zeros(3), 'pcd_scale_factor': 1.0, 'pcd_rotation': np.eye(3),
            'pcd_rotation_angle': 0.0, 'transformation_3d_flow': [], 'img_crop_offset': np.zeros(2, np.float32),
            'trans_mat': np.diag([0.25, 0.25, 1]).astype(np.float32), 'affine_aug': False, 'num_views': views,
            'num_ref_frames': 0, 'sample_idx': 0}
