# Synthetic shapes at every pixel, 300 iterations with batches of 8: a few minutes on a laptop's CPU.
_base_ = ["./shapes_semantic.py", "mmseg::_base_/schedules/schedule_80k.py", "./seg_runtime.py"]

iterations = 300
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
optim_wrapper = dict(
    constructor="BackboneConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(_delete_=True, max_norm=10),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, T_max=iterations - 50, eta_min_ratio=0.01),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=iterations // 2, max_keep_ckpts=1, save_best="mIoU")
)
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
