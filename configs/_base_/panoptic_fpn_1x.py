# Panoptic FPN on COCO, 12 epochs, one scale.
_base_ = ["./panoptic_fpn.py", "./coco_panoptic.py", "./schedule_1x.py", "./runtime.py"]
default_hooks = dict(checkpoint=dict(save_best="coco_panoptic/PQ", rule="greater"))
