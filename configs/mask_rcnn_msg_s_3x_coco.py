_base_ = "./_base_/mask_rcnn_3x.py"

model = dict(backbone=dict(_delete_=True, type="MSGTransformer", arch="small"))
