_base_ = "./_base_/faster_rcnn_1x.py"

model = dict(backbone=dict(_delete_=True, type="DWNet", arch="tiny"))
