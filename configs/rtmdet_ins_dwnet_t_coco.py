_base_ = "./_base_/rtmdet_ins.py"

model = dict(backbone=dict(type="DWNet", arch="tiny"))
