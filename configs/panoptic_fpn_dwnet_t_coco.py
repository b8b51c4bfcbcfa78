_base_ = "./_base_/panoptic_fpn_1x.py"

model = dict(backbone=dict(_delete_=True, type="DWNet", arch="tiny"))
