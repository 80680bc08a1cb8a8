"""KD-DETR on BCCD at 160x120 for one CPU core; general and specific points, as released."""
_base_ = ['./deformable-detr-r18-slim_bccd-cpu.py']

distill = dict(
    type='mmpapers.KDDETR',
    teacher='../../../configs/detr/deformable-detr_r18_bccd-cpu.py',
    checkpoint='work_dirs/teacher_deformable-detr-r18_bccd-cpu/epoch_36.pth',
    num_general=50)  # as many as queries, as in the release
