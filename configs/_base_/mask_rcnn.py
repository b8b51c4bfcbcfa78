# Mask R-CNN with an FPN; the backbone is each config's own.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer"),
    neck=dict(in_channels=[96, 192, 384, 768]),
    roi_head=dict(mask_head=dict(type="MemoryEfficientFCNMaskHead")),
)
