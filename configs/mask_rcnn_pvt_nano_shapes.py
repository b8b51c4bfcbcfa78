# A baseline at the nano size: MMDetection's own PVT.
_base_ = "./_base_/mask_rcnn_nano_shapes.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="PyramidVisionTransformer",
        pretrain_img_size=160,
        embed_dims=16,
        num_layers=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        mlp_ratios=(4, 4, 4, 4),
        drop_path_rate=0.0,
    )
)
