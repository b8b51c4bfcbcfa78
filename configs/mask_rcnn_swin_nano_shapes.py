# The baseline at the nano size: MMDetection's own Swin.
_base_ = "./_base_/mask_rcnn_nano_shapes.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        embed_dims=32,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        window_size=5,
        drop_path_rate=0.0,
    )
)
