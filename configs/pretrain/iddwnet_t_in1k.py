_base_ = "../_base_/pretrain_in1k.py"

model = dict(backbone=dict(type="IDynamicDWNet", arch="tiny"))
