# Cascade Mask R-CNN on COCO, 36 epochs, multi-scale with crops.
_base_ = ["./cascade_mask_rcnn.py", "./coco_instance_ms_crop.py", "./schedule_3x.py", "./runtime.py"]
