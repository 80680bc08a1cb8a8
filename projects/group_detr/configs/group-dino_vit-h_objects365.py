"""Group DETR v2, stage 1: the detector is trained on Objects365 from the encoder of stage 0 (ImageNet-1K).

No source publishes the settings of this stage: all but the data are those of the next.
"""
_base_ = './_base_/vit_huge.py'

data_root = 'data/Objects365/Obj365_v2/'
dataset = dict(type='Objects365V2Dataset', data_root=data_root)

model = dict(bbox_head=dict(num_classes=365))
train_dataloader = dict(
    dataset=dict(ann_file='annotations/zhiyuan_objv2_train.json', data_prefix=dict(img='train/'), **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='annotations/zhiyuan_objv2_val.json', data_prefix=dict(img='val/'), **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/zhiyuan_objv2_val.json')
test_evaluator = val_evaluator
