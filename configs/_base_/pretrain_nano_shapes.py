# Synthetic shapes as classes, 64×64 pixels: a nano backbone learns them in minutes on a laptop's CPU. Every class has a
# color of its own in the set, which would do to distinguish them and teach nothing of shapes: colors are changed in
# training and taken away in validation.
_base_ = ["./pretrain_runtime.py"]

data_root = "data/shapes/"
data_preprocessor = dict(num_classes=3, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ShuffleTransformer", out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=3, in_channels=256, loss=dict(type="CrossEntropyLoss")),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="CropObject"),
    # Hues are turned forth only: MMCV's step back overflows with NumPy 2.
    dict(type="ColorJitter", brightness=0.3, saturation=0.3, hue=(0.0, 0.5)),
    dict(type="RandomGrayscale", prob=0.3, keep_channels=True),
    dict(type="RandomFlip", prob=[0.33, 0.33], direction=["horizontal", "vertical"]),
    dict(type="Resize", scale=(64, 64)),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="CropObject"),
    dict(type="RandomGrayscale", prob=1.0, keep_channels=True),
    dict(type="Resize", scale=(64, 64)),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ShapesClassDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img_path="train2017"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ShapesClassDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img_path="val2017"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
max_epochs = 20
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs // 2)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor="BackboneConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=32)
randomness = dict(seed=0)
