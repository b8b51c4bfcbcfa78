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
    clip_grad=dict(max_norm=5.0),
    # Neither Twins' convolutions of positions nor the bias of MSG's messengers decay, as published.
    paramwise_cfg=dict(custom_keys={".position": dict(decay_mult=0.0), ".rel_pos_msg": dict(decay_mult=0.0)}),
)
