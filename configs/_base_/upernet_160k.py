# UPerNet on ADE20K as Swin trains it: 160,000 iterations with batches of 16, AdamW, no decay on the backbone's
# norms and positions.
_base_ = [
    "./upernet.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_160k.py",
    "./seg_runtime.py",
]

train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    constructor="BackboneConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="mIoU"))
auto_scale_lr = dict(base_batch_size=16)
