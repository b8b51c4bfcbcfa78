# RetinaNet on strides 8, 16, 32 and two more from the FPN. A config names its backbone without `_delete_`, which
# keeps out_indices.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
