"""RTFormer-Base on ADE20K. Numbers: configs/rtformer/rtformer_base_ade20k_512x512_160k.yml of PaddleSeg."""
_base_ = ['./rtformer-slim_ade20k.py']

model = dict(
    backbone=dict(base_channels=64, cross_size=12),
    decode_head=dict(in_channels=256, channels=256),
    auxiliary_head=dict(in_channels=128, channels=128))
