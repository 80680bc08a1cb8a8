"""Another method on the same pair, to compare with: the encoder's input is imitated."""
_base_ = ['./dab-detr-r18-slim_bccd-cpu.py']

distill = dict(
    type='mmpapers.FeatureMimic',
    teacher='../../../configs/detr/dab-detr_r18_bccd-cpu.py',
    checkpoint='work_dirs/teacher_dab-detr-r18_bccd-cpu/epoch_72.pth')
