# RetinaNet on COCO, 12 epochs, one scale.
_base_ = ["./retinanet.py", "./coco_detection.py", "./schedule_1x.py", "./runtime.py"]
