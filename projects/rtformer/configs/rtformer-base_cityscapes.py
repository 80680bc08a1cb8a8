"""RTFormer-Base on Cityscapes. Numbers: configs/rtformer/rtformer_base_cityscapes_1024x512_120k.yml of PaddleSeg."""
_base_ = ['./rtformer-slim_cityscapes.py']

model = dict(
    backbone=dict(base_channels=64, use_injection=(True, False)),
    decode_head=dict(in_channels=256, channels=256),
    auxiliary_head=dict(in_channels=128, channels=128))
