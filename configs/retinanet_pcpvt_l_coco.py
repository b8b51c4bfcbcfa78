_base_ = "./_base_/retinanet_pvt_1x.py"

model = dict(backbone=dict(type="TwinsPCPVT", arch="large"))
