# MMDetection's Swin, from which others can be warm-started.
_base_ = "../_base_/pretrain_nano_shapes.py"

model = dict(
    backbone=dict(
        type="mmdet.SwinTransformer",
        embed_dims=32,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        window_size=5,
        drop_path_rate=0.0,
    )
)
