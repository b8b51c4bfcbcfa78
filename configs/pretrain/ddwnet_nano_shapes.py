_base_ = "../_base_/pretrain_nano_shapes.py"

arch = dict(embed_dims=32, depths=(2, 2, 2, 2), drop_path_rate=0.0)
model = dict(backbone=dict(type="DynamicDWNet", arch=arch, window_size=5))
