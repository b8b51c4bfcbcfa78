# DINO on four scales, 12 epochs, MMDetection's recipe: the backbone learns at a tenth of the rate. A config names its
# backbone without `_delete_`, which keeps out_indices.
_base_ = ["mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", "./plugin.py"]

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]),
)
