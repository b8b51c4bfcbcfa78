_base_ = "./_base_/retinanet_1x.py"

model = dict(backbone=dict(type="ShuffleTransformer", arch="tiny"))
