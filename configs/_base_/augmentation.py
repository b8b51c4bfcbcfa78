# The augmentations of training images that recipes here share: what stands between loading and packing.
# DINO, Mask2Former, RTMDet, ADE20K and pretraining have those of the configs that they inherit.
_scales = [(short, 1333) for short in range(480, 801, 32)]
augmentation = dict(
    one_scale=[
        dict(type="Resize", scale=(1333, 800), keep_ratio=True),
        dict(type="RandomFlip", prob=0.5),
    ],
    # That of DETR, which Swin's 3x recipe uses.
    multi_scale_crop=[
        dict(type="RandomFlip", prob=0.5),
        dict(
            type="RandomChoice",
            transforms=[
                [dict(type="RandomChoiceResize", scales=_scales, keep_ratio=True)],
                [
                    dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                    dict(
                        type="RandomCrop",
                        crop_type="absolute_range",
                        crop_size=(384, 600),
                        allow_negative_crop=True,
                    ),
                    dict(type="RandomChoiceResize", scales=_scales, keep_ratio=True),
                ],
            ],
        ),
    ],
    flips=[dict(type="RandomFlip", prob=[0.33, 0.33], direction=["horizontal", "vertical"])],  # of synthetic shapes
)
del _scales  # or it would be a key of every config
