_base_ = "../_base_/pretrain_nano_shapes.py"

arch = dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), drop_path_rate=0.0)
model = dict(backbone=dict(type="ShuffleTransformer", arch=arch, window_size=5, out_norm_cfg=None))
