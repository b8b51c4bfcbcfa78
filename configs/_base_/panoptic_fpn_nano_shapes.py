# A Panoptic FPN small enough to learn the synthetic shapes, and what is behind them, on a laptop's CPU.
_base_ = "./mask_rcnn_nano_shapes.py"

things, stuff, channels = 3, 1, 64
model = dict(
    type="PanopticFPN",
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    semantic_head=dict(
        type="PanopticFPNHead",
        num_things_classes=things,
        num_stuff_classes=stuff,
        in_channels=channels,
        inner_channels=32,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type="GN", num_groups=8),
        loss_seg=dict(type="CrossEntropyLoss", ignore_index=255, loss_weight=0.5),
    ),
    panoptic_fusion_head=dict(type="HeuristicFusionHead", num_things_classes=things, num_stuff_classes=stuff),
    test_cfg=dict(
        rcnn=dict(score_thr=0.5, nms=dict(type="nms", iou_threshold=0.5, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=256),
    ),
)

maps = "panoptic/"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticAnnotations"),
    dict(type="RandomFlip", prob=[0.33, 0.33], direction=["horizontal", "vertical"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadPanopticAnnotations"),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    dataset=dict(
        type="ShapesPanopticDataset",
        ann_file=maps + "train2017.json",
        data_prefix=dict(img="train2017/", seg=maps + "train2017/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="ShapesPanopticDataset",
        ann_file=maps + "val2017.json",
        data_prefix=dict(img="val2017/", seg=maps + "val2017/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type="CocoPanopticMetric",
    ann_file=_base_.data_root + maps + "val2017.json",
    seg_prefix=_base_.data_root + maps + "val2017/",
)
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best="coco_panoptic/PQ", rule="greater"))
