_base_ = "./_base_/mask2former.py"

model = dict(backbone=dict(_delete_=True, type="ShuffleTransformer", arch="tiny"))
