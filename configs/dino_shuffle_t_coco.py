_base_ = "./_base_/dino.py"

model = dict(backbone=dict(type="ShuffleTransformer", arch="tiny"))
