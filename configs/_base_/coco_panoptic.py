# COCO, panoptic maps, one scale.
_base_ = ["mmdet::_base_/datasets/coco_panoptic.py", "./augmentation.py"]

train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadPanopticAnnotations", backend_args=None),
    *_base_.augmentation.one_scale,
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
