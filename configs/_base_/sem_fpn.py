# Semantic FPN; the backbone is each config's own. Plain BatchNorm: sync_bn makes it synchronous.
_base_ = "mmseg::_base_/models/fpn_r50.py"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type="ShuffleTransformer"),
    neck=dict(in_channels=[96, 192, 384, 768]),
    decode_head=dict(norm_cfg=dict(type="BN", requires_grad=True), num_classes=150),
)
