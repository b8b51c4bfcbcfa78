# 12 epochs of AdamW as in Swin's detection recipe: no weight decay on the backbone's norms and positions, as it says
# by no_weight_decay(). DWNet's official recipe, whose norms have other names, decays them.
_base_ = "mmdet::_base_/schedules/schedule_1x.py"

optim_wrapper = dict(
    constructor="BackboneConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
