_base_ = "./_base_/mask_rcnn_3x.py"

model = dict(
    backbone=dict(_delete_=True, type="IDynamicDWNet", arch="base"),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
