_base_ = "./_base_/cascade_mask_rcnn_3x.py"

# Padded, and with a lower drop path rate than the classifier, as the released detector was trained.
model = dict(
    backbone=dict(_delete_=True, type="DynamicDWNet", arch="base", pad_to_window=True, drop_path_rate=0.3),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
