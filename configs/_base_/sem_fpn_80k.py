# Semantic FPN on ADE20K as MMSegmentation trains it with Twins: 80,000 iterations with batches of 32, AdamW.
_base_ = [
    "./sem_fpn.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_80k.py",
    "./seg_runtime.py",
]

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4),
)
# MMSegmentation's schedule ends at 1e-4, which is where this rate begins.
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=80000, by_epoch=False)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="mIoU"))
auto_scale_lr = dict(base_batch_size=32)
