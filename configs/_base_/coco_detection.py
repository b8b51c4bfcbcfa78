# COCO, boxes, one scale.
_base_ = ["mmdet::_base_/datasets/coco_detection.py", "./augmentation.py"]

train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    *_base_.augmentation.one_scale,
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
