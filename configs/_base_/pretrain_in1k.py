# ImageNet-1k at 224×224, 300 epochs with batches of 1024: Swin's recipe (AdamW, RandAugment, Mixup, CutMix, random
# erasing, label smoothing), which the papers of these families say they follow. A config names its backbone without
# `_delete_`, which keeps out_indices.
_base_ = [
    "mmpretrain::_base_/models/swin_transformer/tiny_224.py",
    "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",
    "./pretrain_runtime.py",
]

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer", out_indices=(3,)),
    head=dict(init_cfg=dict(_delete_=True, type="TruncNormal", layer="Linear", std=0.02, bias=0.0)),
    init_cfg=None,  # backbones initialize themselves
)
optim_wrapper = dict(
    constructor="BackboneConstructor",
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(_delete_=True)),  # Swin's tables: the backbone says itself what does not decay
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    # A share of the rate, as the rate itself: it holds for other batch sizes (--auto-scale-lr).
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=20),
]
