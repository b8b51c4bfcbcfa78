_base_ = "../_base_/pretrain_in1k.py"

# Without a norm after the last stage, as published.
model = dict(backbone=dict(type="ShuffleTransformer", arch="tiny", out_norm_cfg=None))
