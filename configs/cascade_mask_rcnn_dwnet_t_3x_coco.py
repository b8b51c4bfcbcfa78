_base_ = "./_base_/cascade_mask_rcnn_3x.py"

# Padded as the released detector of this recipe was trained; without, its numbers shift.
model = dict(backbone=dict(_delete_=True, type="DWNet", arch="tiny", pad_to_window=True))
