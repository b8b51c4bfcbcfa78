# A baseline: MMDetection's own PVT-Small, which is its default, under the recipe of PVT.
_base_ = "./_base_/mask_rcnn_pvt_1x.py"

model = dict(backbone=dict(_delete_=True, type="PyramidVisionTransformer"))
