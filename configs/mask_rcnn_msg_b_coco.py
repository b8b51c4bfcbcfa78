_base_ = "./_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(_delete_=True, type="MSGTransformer", arch="base"))
