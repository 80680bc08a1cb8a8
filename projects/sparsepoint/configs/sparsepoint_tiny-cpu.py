"""The smallest SparsePoint, for tests."""
_base_ = ['./sparsepoint_rooms-cpu.py']

model = dict(
    backbone=dict(
        num_points=(64, 32, 16, 8),
        radius=(0.4, 0.8, 1.2, 2.0),
        num_samples=(8, 8, 8, 8),
        sa_channels=((8, 8, 16), (16, 16, 16), (16, 16, 16), (16, 16, 16)),
        fp_channels=((16, 16), (16, 16))),
    bbox_head=dict(in_channels=16, embed_dims=16, num_proposals=16, num_stages=2, num_heads=2, num_neighbors=8,
                   ffn_channels=32))
