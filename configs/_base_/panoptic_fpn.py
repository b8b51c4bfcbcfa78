# Panoptic FPN: Mask R-CNN and a branch for stuff on the same pyramid; MMDetection's own heads.
_base_ = "./mask_rcnn.py"

things, stuff = 80, 53
model = dict(
    type="PanopticFPN",
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    semantic_head=dict(
        type="PanopticFPNHead",
        num_things_classes=things,
        num_stuff_classes=stuff,
        in_channels=256,
        inner_channels=128,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        conv_cfg=None,
        loss_seg=dict(type="CrossEntropyLoss", ignore_index=255, loss_weight=0.5),
    ),
    panoptic_fusion_head=dict(type="HeuristicFusionHead", num_things_classes=things, num_stuff_classes=stuff),
    test_cfg=dict(
        rcnn=dict(score_thr=0.6, nms=dict(type="nms", iou_threshold=0.5, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=4096),
    ),
)
