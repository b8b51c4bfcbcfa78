# UPerNet with an auxiliary FCN head; the backbone is each config's own. Plain BatchNorm: sync_bn makes it synchronous.
_base_ = "mmseg::_base_/models/upernet_swin.py"

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type="ShuffleTransformer"),
    decode_head=dict(norm_cfg=norm_cfg, num_classes=150),
    auxiliary_head=dict(norm_cfg=norm_cfg, num_classes=150),
)
