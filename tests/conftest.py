"""Shared set-up: two threads (one in each of several test processes), fixed seeds, the compat layer on."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch

from mmpapers import compat

torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else int(os.environ.get('OMP_NUM_THREADS', 2)))
compat.setup()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_globals() -> Iterator[None]:
    """Leave mmengine's global objects (default scope, visualizers, hubs) as a test found them, whatever ran before."""
    from mmengine.logging import MessageHub
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    def kinds() -> set[type]:
        found = {DefaultScope, MessageHub, Visualizer}
        for kind in list(found):
            found.update(kind.__subclasses__())
        return found
    before = {kind: kind._instance_dict.copy() for kind in kinds()}
    yield
    for kind in kinds():
        kind._instance_dict = before.get(kind) or type(kind._instance_dict)()


def _resnet(depth: int, width: int, indices: tuple[int, ...] = (1, 2, 3)) -> dict:
    return dict(type='ResNet', depth=depth, base_channels=width, stem_channels=width, num_stages=4, out_indices=indices,
                norm_cfg=dict(type='BN'), style='pytorch')


def _dense(width: int) -> dict:
    """A RetinaNet with three levels and two classes."""
    return dict(
        type='RetinaNet', _scope_='mmdet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True,
                               pad_size_divisor=32),
        backbone=_resnet(18, width), neck=dict(type='FPN', in_channels=[width * 2, width * 4, width * 8],
                                               out_channels=2 * width, num_outs=3),
        bbox_head=dict(
            type='RetinaHead', num_classes=2, in_channels=2 * width, feat_channels=2 * width, stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1,
                                  ratios=[.5, 1., 2.], strides=[8, 16, 32]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss')),
        train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.4, min_pos_iou=0),
                       sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=.5),
                      max_per_img=10))


def _two_stage(width: int) -> dict:
    """A Faster R-CNN with three levels, two classes and a box head of two layers."""
    dense = _dense(width)
    head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=3,
                                                                          sampling_ratio=0),
                                out_channels=2 * width, featmap_strides=[8, 16, 32]),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=2 * width, fc_out_channels=32, roi_feat_size=3,
                       num_classes=2, bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2]),
                       loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='L1Loss')))
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.5, min_pos_iou=.3, match_low_quality=True)
    nms = dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=.7), min_bbox_size=0)
    return dict(
        type='FasterRCNN', _scope_='mmdet', data_preprocessor=dense['data_preprocessor'], backbone=dense['backbone'],
        neck=dense['neck'],
        rpn_head=dict(type='RPNHead', in_channels=2 * width, feat_channels=2 * width, anchor_generator=dict(
            type='AnchorGenerator', scales=[3], ratios=[.5, 1., 2.], strides=[8, 16, 32])),
        roi_head=head,
        train_cfg=dict(
            rpn=dict(assigner=assigner, sampler=dict(type='RandomSampler', num=32, pos_fraction=.5,
                                                     add_gt_as_proposals=False), allowed_border=-1, pos_weight=-1),
            rpn_proposal=nms, rcnn=dict(assigner=assigner, pos_weight=-1, debug=False, sampler=dict(
                type='RandomSampler', num=16, pos_fraction=.25, add_gt_as_proposals=True))),
        test_cfg=dict(rpn=nms, rcnn=dict(score_thr=0., nms=dict(type='nms', iou_threshold=.5), max_per_img=10)))


def _query(width: int) -> dict:
    """A DAB-DETR without dropout: four times the width in channels, two classes, 1 + width / 4 decoder layers."""
    channels = 4 * width
    attention = dict(embed_dims=channels, num_heads=2, attn_drop=0., proj_drop=0.)
    ffn = dict(embed_dims=channels, feedforward_channels=2 * channels, num_fcs=2, ffn_drop=0.,
               act_cfg=dict(type='PReLU'))
    return dict(
        type='DABDETR', _scope_='mmdet', num_queries=6 + width, data_preprocessor=_dense(width)['data_preprocessor'],
        backbone=_resnet(18, width, (2,)) | dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1)),
        neck=dict(type='ChannelMapper', in_channels=[4 * width], kernel_size=1, out_channels=channels, act_cfg=None,
                  norm_cfg=None, num_outs=1),
        encoder=dict(num_layers=1, layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=channels, num_heads=2, dropout=0., batch_first=True), ffn_cfg=ffn)),
        decoder=dict(num_layers=1 + width // 4, query_dim=4, query_scale_type='cond_elewise',
                     with_modulated_hw_attn=True, return_intermediate=True, layer_cfg=dict(
                         self_attn_cfg=dict(**attention, cross_attn=False),
                         cross_attn_cfg=dict(**attention, cross_attn=True), ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=channels // 2, temperature=20, normalize=True),
        bbox_head=dict(type='DABDETRHead', num_classes=2, embed_dims=channels, loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2., alpha=.25, loss_weight=1.),
            loss_bbox=dict(type='L1Loss', loss_weight=5.), loss_iou=dict(type='GIoULoss', loss_weight=2.)),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='FocalLossCost', weight=2.), dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.)])),
        test_cfg=dict(max_per_img=10))


def _deformable(type_: str, two_stage: bool) -> dict:
    """A Deformable DETR or DINO with two levels, classes and layers; mmdet's two-stage ones have 256 channels."""
    channels = 256 if two_stage else 16
    attention = dict(embed_dims=channels, num_heads=2, dropout=0., batch_first=True)
    sampling = dict(attention, num_levels=2, num_points=2)
    ffn = dict(embed_dims=channels, feedforward_channels=32, ffn_drop=0.)
    base = _query(4)
    return dict(
        base, type=type_, num_queries=8, num_feature_levels=2, with_box_refine=True, as_two_stage=two_stage,
        backbone=_resnet(18, 4, (2, 3)),
        neck=dict(type='ChannelMapper', in_channels=[16, 32], kernel_size=1, out_channels=channels, act_cfg=None,
                  norm_cfg=dict(type='GN', num_groups=2), num_outs=2),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=sampling, ffn_cfg=ffn)),
        decoder=dict(num_layers=2, return_intermediate=True, post_norm_cfg=None, layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=sampling, ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=channels // 2, normalize=True, offset=-.5),
        bbox_head=dict(base['bbox_head'], type=f'{type_}Head', embed_dims=channels, sync_cls_avg_factor=True),
        **(dict(dn_cfg=dict(label_noise_scale=.5, box_noise_scale=1., group_cfg=dict(
            dynamic=True, num_groups=None, num_dn_queries=6))) if type_ == 'DINO' else {}))


def _conditional() -> dict:
    """A Conditional DETR; mmdet's has 256 channels."""
    attention = dict(embed_dims=256, num_heads=2, attn_drop=0.)
    ffn = dict(embed_dims=256, feedforward_channels=32, num_fcs=2, ffn_drop=0.)
    base = _query(4)
    return dict(
        base, type='ConditionalDETR', neck=dict(base['neck'], out_channels=256),
        encoder=dict(num_layers=1, layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=2, dropout=0., batch_first=True), ffn_cfg=ffn)),
        decoder=dict(num_layers=2, return_intermediate=True, layer_cfg=dict(
            self_attn_cfg=dict(attention, cross_attn=False), cross_attn_cfg=dict(attention, cross_attn=True),
            ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=128, normalize=True),
        bbox_head=dict(base['bbox_head'], type='ConditionalDETRHead', embed_dims=256))


def _segmentor(width: int) -> dict:
    """An FCN with an auxiliary head and three classes."""
    head = dict(type='FCNHead', num_convs=1, dropout_ratio=.1, num_classes=3, norm_cfg=dict(type='BN'),
                align_corners=False)
    return dict(
        type='EncoderDecoder', _scope_='mmseg',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True,
                               size=(64, 64), pad_val=0, seg_pad_val=255),
        backbone=_resnet(18, width, (2, 3)) | dict(type='ResNetV1c'),
        decode_head=head | dict(in_channels=width * 8, in_index=1, channels=16),
        auxiliary_head=head | dict(in_channels=width * 4, in_index=0, channels=8, loss_decode=dict(
            type='CrossEntropyLoss', loss_weight=.4)),
        train_cfg=dict(), test_cfg=dict(mode='whole'))


def _voxel(width: int) -> dict:
    """A PointPillars on 12.8 m x 12.8 m with one class."""
    area = [0., -6.4, -3., 12.8, 6.4, 1.]
    return dict(
        type='VoxelNet', _scope_='mmdet3d',
        data_preprocessor=dict(type='Det3DDataPreprocessor', voxel=True, voxel_layer=dict(
            max_num_points=8, point_cloud_range=area, voxel_size=[.4, .4, 4.], max_voxels=(500, 500))),
        voxel_encoder=dict(type='PillarFeatureNet', in_channels=4, feat_channels=[width], with_distance=False,
                           voxel_size=[.4, .4, 4.], point_cloud_range=area),
        middle_encoder=dict(type='PointPillarsScatter', in_channels=width, output_shape=[32, 32]),
        backbone=dict(type='SECOND', in_channels=width, layer_nums=[1, 1], layer_strides=[1, 2],
                      out_channels=[width, 2 * width]),
        neck=dict(type='SECONDFPN', in_channels=[width, 2 * width], upsample_strides=[1, 2],
                  out_channels=[width, width]),
        bbox_head=dict(
            type='Anchor3DHead', num_classes=1, in_channels=2 * width, feat_channels=2 * width,
            use_direction_classifier=True, assign_per_class=True, anchor_generator=dict(
                type='AlignedAnchor3DRangeGenerator', ranges=[[0, -6.4, -1.78, 12.8, 6.4, -1.78]],
                sizes=[[3.9, 1.6, 1.56]], rotations=[0, 1.57], reshape_out=False),
            diff_rad_by_sin=True, bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
            loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1 / 9),
            loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=.2)),
        train_cfg=dict(
            assigner=[dict(type='Max3DIoUAssigner', iou_calculator=dict(type='mmdet3d.BboxOverlapsNearest3D'),
                           pos_iou_thr=.6, neg_iou_thr=.45, min_pos_iou=.45)],
            allowed_border=0, pos_weight=-1, debug=False),
        test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_thr=.1, score_thr=.1, min_bbox_size=0,
                      nms_pre=50, max_num=10))


def _batch(kind: str) -> dict:
    """Two labelled samples as a data loader delivers them, always the same."""
    from mmengine.structures import InstanceData, PixelData
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8) for _ in range(2)]
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1., 1.), flip=False)
    samples = []
    for i in range(2):
        if kind == 'segmentor':
            from mmseg.structures import SegDataSample
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 64, 64), generator=generator))
        elif kind == 'voxel':
            from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
            sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, sample_idx=i))
            boxes = torch.tensor([[4. + i, 0., -1.7, 3.9, 1.6, 1.5, .1], [9., 3. - i, -1.7, 3.8, 1.6, 1.5, 1.6]])
            sample.gt_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes),
                                                  labels_3d=torch.zeros(2, dtype=torch.long))
        else:
            from mmdet.structures import DetDataSample
            corner = torch.rand(3, 2, generator=generator) * 30
            boxes = torch.cat([corner, corner + 16 + 16 * torch.rand(3, 2, generator=generator)], 1)
            sample = DetDataSample(metainfo=dict(meta, img_id=i))
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, 2, (3,), generator=generator))
        samples.append(sample)
    if kind != 'voxel':
        return dict(inputs=images, data_samples=samples)
    span = torch.tensor([12.8, 12.8, 4., 1.])
    clouds = [torch.rand(800, 4, generator=generator) * span + torch.tensor([0., -6.4, -3., 0.]) for _ in range(2)]
    return dict(inputs=dict(points=clouds), data_samples=samples)


@pytest.fixture
def tiny_pair() -> Callable[[str], tuple[dict, dict, Callable[[], dict]]]:
    """Give a small student, a teacher of twice its width, and a function that makes a batch, all of one kind.

    Kinds: ``'dense'``, ``'two_stage'``, ``'query'``, ``'segmentor'``, ``'voxel'``. The student is that of width 4.
    """
    makers = dict(dense=_dense, two_stage=_two_stage, query=_query, segmentor=_segmentor, voxel=_voxel)

    def pair(kind: str) -> tuple[dict, dict, Callable[[], dict]]:
        return makers[kind](4), makers[kind](8), lambda: _batch(kind)
    return pair


@pytest.fixture
def tiny_detr() -> Callable[..., torch.nn.Module]:
    """Build a small DETR without dropout, by kind and seed, with parameters that are nowhere 0.

    Kinds: ``'dab'``, ``'deformable'``, ``'two_stage'`` (Deformable DETR), ``'dino'``, ``'conditional'``. Further
    arguments replace entries of its config.
    """
    makers = dict(dab=lambda: _query(4), deformable=lambda: _deformable('DeformableDETR', False),
                  two_stage=lambda: _deformable('DeformableDETR', True), dino=lambda: _deformable('DINO', True),
                  conditional=_conditional)

    def build(kind: str, seed: int = 0, **changes: object) -> torch.nn.Module:
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope
        init_default_scope('mmdet')
        torch.manual_seed(seed)
        model = MODELS.build(Config(dict(model=dict(makers[kind](), **changes))).model)
        model.init_weights()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(.05 * torch.randn_like(parameter))
        return model
    return build
