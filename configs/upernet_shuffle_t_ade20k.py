_base_ = "./_base_/upernet_160k.py"

model = dict(backbone=dict(_delete_=True, type="ShuffleTransformer", arch="tiny"))
