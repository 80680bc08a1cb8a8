"""Another method on the same pair, to compare with: the encoder's input is imitated."""
_base_ = ['./deformable-detr-r18-slim_bccd-cpu.py']

distill = dict(
    type='mmpapers.FeatureMimic',
    teacher='../../../configs/detr/deformable-detr_r18_bccd-cpu.py',
    checkpoint='work_dirs/teacher_deformable-detr-r18_bccd-cpu/epoch_36.pth')
