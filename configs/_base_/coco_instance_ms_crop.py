# COCO, boxes and masks, multi-scale with crops.
_base_ = ["mmdet::_base_/datasets/coco_instance.py", "./augmentation.py"]

train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadCompactAnnotations", with_bbox=True, with_mask=True),
    *_base_.augmentation.multi_scale_crop,
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
