"""RTFormer-Base on CamVid at 480x360; see rtformer-slim_camvid.py."""
_base_ = ['./rtformer-slim_camvid.py']

model = dict(
    backbone=dict(base_channels=64, use_injection=(True, False)),  # released configs
    decode_head=dict(in_channels=256, channels=256),
    auxiliary_head=dict(in_channels=128, channels=128))
