"""RepPoints-X101 teaches RepPoints-R50; numbers: reppoints_x101-reppoints-r50_coco.py of the official code."""
_base_ = 'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py'

distill = dict(
    type='mmpapers.MasKD',
    teacher='mmdet::reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/reppoints/'
    'reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/'
    'reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea.pth',
    taps=dict(boxes='bbox_head.reppoints_pts_refine_out', boxes_initial='bbox_head.reppoints_pts_init_out'),
    custom_mask_warmup=5000,
    boxes_beta=0.11,
    term_weights=dict(maskd=10., boxes=0.2, boxes_initial=0.1))
