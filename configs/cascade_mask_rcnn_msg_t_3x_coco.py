_base_ = "./_base_/cascade_mask_rcnn_3x.py"

model = dict(
    backbone=dict(_delete_=True, type="MSGTransformer", arch="tiny"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
