# Mask R-CNN on COCO, 12 epochs, one scale, in PVT's recipe.
_base_ = ["./mask_rcnn.py", "./coco_instance.py", "./schedule_pvt_1x.py", "./runtime.py"]
