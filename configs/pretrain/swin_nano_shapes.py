# MMPretrain's own Swin, from which others can be warm-started.
_base_ = "../_base_/pretrain_nano_shapes.py"

arch = dict(embed_dims=32, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16])
model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        arch=arch,
        img_size=64,
        window_size=5,
        drop_path_rate=0.0,
        pad_small_map=True,
    )
)
