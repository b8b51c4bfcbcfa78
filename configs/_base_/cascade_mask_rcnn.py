# Cascade Mask R-CNN with an FPN and the box heads of Swin's and DWNet's recipe: four convolutions with norms and
# one linear layer, GIoU on decoded boxes, a box for each class. The backbone is each config's own.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer"),
    neck=dict(in_channels=[96, 192, 384, 768]),
    roi_head=dict(
        mask_head=dict(type="MemoryEfficientFCNMaskHead"),
        # Lists are replaced, not merged, so the three stages are written out; only their target_stds differ.
        bbox_head=[
            dict(
                type="ConvFCBBoxHead",
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type="BN"),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ],
    ),
)
