# Faster R-CNN with an FPN on COCO, 12 epochs, one scale; the backbone is each config's own.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "./coco_detection.py",
    "./schedule_1x.py",
    "./runtime.py",
]

model = dict(backbone=dict(_delete_=True, type="ShuffleTransformer"), neck=dict(in_channels=[96, 192, 384, 768]))
