_base_ = "./_base_/mask_rcnn_3x.py"

model = dict(backbone=dict(_delete_=True, type="SwinTransformer", drop_path_rate=0.2))
