# 12 epochs of AdamW as in Swin's detection recipe: no weight decay on norms and position bias.
_base_ = "mmdet::_base_/schedules/schedule_1x.py"

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        # Matched by substring: all our norms are called norm*, bias tables relative_position_bias_table, Twins'
        # convolutions position, the bias of MSG's messengers rel_pos_msg.
        custom_keys={
            "norm": dict(decay_mult=0.0),
            "position": dict(decay_mult=0.0),
            "rel_pos_msg": dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
