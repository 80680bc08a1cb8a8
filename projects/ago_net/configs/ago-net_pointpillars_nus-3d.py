"""PointPillars of mmdet3d on nuScenes with the loss as it was released: outlines of cars, no re-weighting.

Source: pcdet/models/detectors/pointpillar.py and pcdet/datasets/{dataset,nuscenes/nuscenes_dataset}.py of
github.com/dleam/Associate-3Ddet-V2 at 85f19a6.
"""
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py'

conceptual_root = 'data/nuscenes/conceptual/'
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='mmpapers.LoadConceptualPoints', conceptual_prefix=conceptual_root + 'LIDAR_TOP', load_dim=5, use_dim=5),
    *_base_.train_pipeline[2:],
    dict(type='mmpapers.SplitConceptualPoints')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

distill = dict(
    type='mmpapers.AGONet',
    shape='outline',
    classes=[0],
    reweight=False,
    teacher='conceptual_pointpillars_nus-3d.py',
    checkpoint='work_dirs/conceptual_pointpillars_nus-3d/epoch_24.pth')

# The student goes on from the plain detector, as in the released code [tools/train.py]
load_from = 'work_dirs/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d/epoch_24.pth'
