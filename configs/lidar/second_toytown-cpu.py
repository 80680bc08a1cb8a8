"""A small SECOND on LiDAR Toytown: voxels of 0.16 x 0.16 x 0.2 m, for one CPU core; the numbers are ours."""
_base_ = ['./pointpillars_toytown-cpu.py']

voxel_size = [0.16, 0.16, 0.2]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(max_num_points=5, voxel_size=voxel_size, max_voxels=(8000, 16000))),
    voxel_encoder=dict(_delete_=True, type='HardSimpleVFE'),
    middle_encoder=dict(
        _delete_=True,
        type='SparseEncoder',
        in_channels=4,
        sparse_shape=[21, 256, 256],
        order=('conv', 'norm', 'act'),
        base_channels=8,
        output_channels=32,
        encoder_channels=((8, ), (16, 16), (32, 32)),
        encoder_paddings=((1, ), (1, 1), (1, 1))),
    backbone=dict(in_channels=64, layer_nums=[2, 2], layer_strides=[1, 2], out_channels=[32, 64]),
    neck=dict(in_channels=[32, 64], upsample_strides=[1, 2], out_channels=[48, 48]))
