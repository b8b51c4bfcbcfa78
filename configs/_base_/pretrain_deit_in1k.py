# ImageNet-1k as Twins was trained: DeiT's recipe, which differs from Swin's in its warm-up of 5 epochs.
_base_ = "./pretrain_in1k.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=5),
]
