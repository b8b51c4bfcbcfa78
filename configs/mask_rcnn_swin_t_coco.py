# The baseline: MMDetection's own Swin-T under the same recipe. Its qk_scale and convert_weights are defaults.
_base_ = "./_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(_delete_=True, type="SwinTransformer", drop_path_rate=0.2))
