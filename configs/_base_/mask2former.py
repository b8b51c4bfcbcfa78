# Mask2Former for instance segmentation, 50 epochs with large-scale jittering, MMDetection's recipe: the backbone
# learns at a tenth of the rate.
_base_ = ["mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", "./plugin.py"]

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer"),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
embed = dict(decay_mult=0.0)
optim_wrapper = dict(
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(
        backbone_rate=0.1,
        norm_decay_mult=0.0,
        custom_keys=dict(
            _delete_=True,
            query_embed=embed,
            query_feat=embed,
            level_embed=embed,
        ),
    ),
)
