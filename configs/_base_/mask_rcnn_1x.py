# Mask R-CNN on COCO, 12 epochs, one scale.
_base_ = ["./mask_rcnn.py", "./coco_instance.py", "./schedule_1x.py", "./runtime.py"]
