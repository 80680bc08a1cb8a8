"""DENFI on a SECOND small enough for a training step of a fraction of a second on a CPU; for tests."""
_base_ = './denfi_second_toytown-cpu.py'

voxel_size = [0.32, 0.32, 0.4]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(voxel_size=voxel_size)),
    middle_encoder=dict(
        sparse_shape=[11, 128, 128],
        base_channels=4,
        output_channels=8,
        encoder_channels=((4, ), (8, 8), (8, 8))),
    backbone=dict(in_channels=8, layer_nums=[1, 1], out_channels=[8, 8]),
    neck=dict(in_channels=[8, 8], out_channels=[8, 8]),
    aux_neck=dict(in_channels=16, proposal=dict(voxel_size=voxel_size)),
    bbox_head=dict(in_channels=16, feat_channels=16))
