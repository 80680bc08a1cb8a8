"""TF-HEAD small enough for a training step of a fraction of a second on a CPU; for tests and first looks."""
_base_ = ['./head_retinanet_tiny-cpu.py']

distill = dict(
    _delete_=True,
    type='mmpapers.TFHEAD',
    proposals=dict(nms_pre=100, max_per_img=50),
    assistants=[
        dict(
            type='mmpapers.RCNNAssistant',
            rcnn=_base_.rcnn,
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0)),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                fc_out_channels=32,
                roi_feat_size=3,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'))),
        dict(type='mmpapers.DenseAssistant', bbox_head=dict(type='FCOSHead', stacked_convs=1, norm_on_bbox=True)),
    ])
