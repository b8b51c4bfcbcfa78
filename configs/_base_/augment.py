# What `augment=NAME` puts between loading and packing, at COCO's size; `config.pipelines` scales it to others.
# A recipe with a transform that mixes images is split there: what stands before it is done to each image.
_base_ = "./augmentation.py"

_scales = [(short, 1333) for short in range(480, 801, 32)]
_flip = dict(type="RandomFlip", prob=0.5)
# Boxes of what is cut follow its mask, and what is cut off goes.
_fit = dict(recompute_bbox=True, allow_negative_crop=True)
_filter = dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=False)
_square = (1024, 1024)
_pad = dict(type="Pad", size=_square, pad_val=dict(img=(114, 114, 114)))

augment = dict(
    none=[dict(type="Resize", scale=(1333, 800), keep_ratio=True)],
    flip=_base_.augmentation.one_scale,
    color=[*_base_.augmentation.one_scale, dict(type="PhotoMetricDistortion")],
    crop=[  # augmentation.multi_scale_crop, with boxes that follow the masks
        _flip,
        dict(
            type="RandomChoice",
            transforms=[
                [dict(type="RandomChoiceResize", scales=_scales, keep_ratio=True)],
                [
                    dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                    dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), **_fit),
                    dict(type="RandomChoiceResize", scales=_scales, keep_ratio=True),
                ],
            ],
        ),
        _filter,
    ],
    lsj=[
        dict(type="RandomResize", scale=_square, ratio_range=(0.1, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=_square, **_fit),
        _filter,
        _flip,
    ],
    mosaic=[
        dict(type="MaskedMosaic", img_scale=_square, pad_val=114.0),
        dict(type="RandomResize", scale=(2048, 2048), ratio_range=(0.5, 1.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=_square, **_fit),
        _filter,
        _flip,
        _pad,
    ],
    copypaste=[
        dict(type="RandomResize", scale=_square, ratio_range=(0.5, 1.5), keep_ratio=True),
        dict(type="RandomCrop", crop_size=_square, **_fit),
        _filter,
        _flip,
        _pad,
        dict(type="FittingCopyPaste", mask_occluded_thr=10),
        _filter,
    ],
)
del _scales, _flip, _fit, _filter, _square, _pad
